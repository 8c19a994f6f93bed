/*
 * Errors say what went wrong, where, and what to do; numbers are for programs.
 *
 *     cc errors.c $(pkg-config --cflags --libs strait) && ./a.out DIRECTORY
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <strait.h>
#include <string.h>

static void explain(strait_error *error) {
    uint64_t offset;
    printf("status %d: %s\n", (int)strait_error_status(error), strait_error_message(error));
    if (strait_error_path(error)) {
        printf("  file %s\n", strait_error_path(error));
    }
    if (strait_error_offset(error, &offset)) {
        printf("  byte %" PRIu64 "\n", offset);
    }
    if (strait_error_errno(error)) {
        printf("  errno %d\n", strait_error_errno(error));
    }
    if (strait_error_device_code(error)) {
        printf("  driver's code %d\n", strait_error_device_code(error));
    }
}

int main(void) {
    strait_error *error = NULL;
    strait_dataset_builder *paths = NULL;
    strait_dataset *dataset = NULL;
    if (strait_dataset_builder_new(&paths, &error) != STRAIT_STATUS_OK ||
        strait_dataset_builder_add_path(paths, "/no/such/shard.tar", &error) != STRAIT_STATUS_OK) {
        return 1;
    }
    /* Outputs are written on success only: `dataset` stays NULL. */
    strait_status status = strait_dataset_builder_build(paths, &dataset, &error);
    if (status != STRAIT_STATUS_OPEN || dataset || strait_error_errno(error) != ENOENT) {
        return 1;
    }
    explain(error);
    strait_error_free(error);
    error = NULL;

    /* A handle that is not live is told from one that is, and what lies behind it is never touched. */
    strait_dataset_builder_free(paths);
    status = strait_dataset_builder_build(paths, &dataset, &error);
    if (status != STRAIT_STATUS_BAD_HANDLE) {
        return 1;
    }
    explain(error);
    strait_error_free(error);

    /* Who does not want to know more passes NULL. */
    return strait_dataset_builder_new(NULL, NULL) == STRAIT_STATUS_NULL_ARGUMENT ? 0 : 1;
}
