// cuFileDriverOpen spins for ever where there is no /proc/modules. This shows it an empty one.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *path_of(const char *path) { return path && strcmp(path, "/proc/modules") == 0 ? "/dev/null" : path; }

#define OPENS_STREAM(name)                                                                                             \
    FILE *name(const char *path, const char *mode) {                                                                   \
        FILE *(*next)(const char *, const char *) = dlsym(RTLD_NEXT, #name);                                           \
        return next(path_of(path), mode);                                                                              \
    }

#define OPENS(name)                                                                                                    \
    int name(const char *path, int flags, ...) {                                                                       \
        int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);                                                 \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        int mode = va_arg(rest, int);                                                                                  \
        va_end(rest);                                                                                                  \
        return next(path_of(path), flags, mode);                                                                       \
    }

OPENS_STREAM(fopen)
OPENS_STREAM(fopen64)
OPENS(open)
OPENS(open64)
