// Runs the gather kernels on a CPU, thread after thread, against plain loops: which byte goes where, no load outside the
// 4-byte words of the pieces (AddressSanitizer), no misaligned access (UndefinedBehaviorSanitizer), and rounding. Threads
// of these kernels share nothing, so one after another is as good as side by side. Says nothing about speed.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#define __global__
#define __device__
struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx, blockDim, gridDim;
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
static unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
static float __fmul_rn(float a, float b) { return a * b; }
static float __fadd_rn(float a, float b) { return a + b; }

#include "../../src/device/cuda/kernels/gather.cu"

static std::mt19937_64 chance(17);
static u64 below(u64 n) { return chance() % n; }

// Every thread of a launch.
template <typename Kernel> static void launch(unsigned blocks, unsigned threads, Kernel kernel) {
    gridDim.x = blocks, blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) kernel();
}

static void fail(const char *what, u64 a, u64 b) {
    std::printf("FAILED: %s (%llu, %llu)\n", what, a, b);
    std::exit(1);
}

// A piece of its own, so that AddressSanitizer sees every byte beyond the 4-byte words it lies in.
struct Piece {
    u8 *words;
    u8 *bytes;
    u64 length;
    Piece(u64 align, u64 length) : length(length) {
        // `malloc` aligns to 16: the piece begins `align` bytes in, and the words before it are poisoned by hand.
        u64 size = align + length + (4 - (align + length) % 4) % 4;
        words = (u8 *)std::malloc(size ? size : 1);
        bytes = words + align;
        for (u64 i = 0; i < size; i++) words[i] = (u8)chance();
        skipped = align - align % 4;
        poison(words, skipped);
    }
    ~Piece() {
        unpoison(words, skipped);
        std::free(words);
    }
    Piece(const Piece &) = delete;

  private:
    u64 skipped;
    static void poison(void *at, u64 n);
    static void unpoison(void *at, u64 n);
};
extern "C" void __asan_poison_memory_region(void const volatile *, size_t);
extern "C" void __asan_unpoison_memory_region(void const volatile *, size_t);
void Piece::poison(void *at, u64 n) { __asan_poison_memory_region(at, n); }
void Piece::unpoison(void *at, u64 n) { __asan_unpoison_memory_region(at, n); }

static void gathers_bytes() {
    for (u64 from = 0; from < 16; from++)
        for (u64 to = 0; to < 16; to++)
            for (u64 length : {0, 1, 3, 15, 16, 17, 31, 100, 512, 600}) {
                length = length > 40 ? length + below(20) : length;
                Piece source(from, length);
                std::vector<u8> whole(16 + 16 + length + 32, 0xEE);
                u8 *base = whole.data() + (16 - (u64)whole.data() % 16) % 16;
                Move move = {(u64)source.bytes, (u64)(base + to), length};
                launch(1 + below(3), 32 * (1 + below(3)), [&] { strait_gather(&move, 1); });
                if (length && std::memcmp(base + to, source.bytes, length)) fail("bytes differ", from, to);
                for (u8 *at = whole.data(); at < whole.data() + whole.size(); at++)
                    if ((at < base + to || at >= base + to + length) && *at != 0xEE) fail("a byte beside the target", from, to);
            }
}

static void takes_every_move_once() {
    for (unsigned count : {0u, 1u, 7u, 300u}) {
        std::vector<u8> region(count * 64 + 64), dense(count * 24 + 16, 0), want(dense);
        for (auto &byte : region) byte = (u8)chance();
        std::vector<Move> moves;
        for (unsigned i = 0; i < count; i++) {
            u64 at = i * 64 + below(40);
            moves.push_back({(u64)&region[at], (u64)&dense[i * 24], 24});
            std::memcpy(&want[i * 24], &region[at], 24);
        }
        launch(2, 96, [&] { strait_gather(moves.data(), count); });
        if (dense != want) fail("moves differ", count, 0);
    }
}

template <typename From, typename To, typename Kernel> static void widens(const char *name, Kernel kernel) {
    for (u64 align = 0; align < 8; align++)
        for (u64 elements : {0, 1, 31, 32, 33, 1000}) {
            Piece source(align, elements * sizeof(From));
            std::vector<To> target(elements + 1, 77);
            Move move = {(u64)source.bytes, (u64)target.data(), source.length};
            launch(1, 64, [&] { kernel(&move, 1); });
            for (u64 i = 0; i < elements; i++) {
                From value;
                std::memcpy(&value, source.bytes + i * sizeof(From), sizeof(From));
                if (target[i] != (To)value) fail(name, align, i);
            }
            if (target[elements] != 77) fail(name, align, elements);
        }
}

static void scales() {
    std::vector<u8> source(256);
    for (int i = 0; i < 256; i++) source[i] = (u8)i;
    for (float factor : {1.0f, 1 / 255.0f, -0.017f, 1e-7f})
        for (float bias : {0.0f, -0.5f, 1e5f}) {
            std::vector<float> f32(256);
            std::vector<F16> f16(256);
            std::vector<BF16> bf16(256);
            Move to_32 = {(u64)source.data(), (u64)f32.data(), 256};
            Move to_16 = {(u64)source.data(), (u64)f16.data(), 256};
            Move to_b16 = {(u64)source.data(), (u64)bf16.data(), 256};
            launch(1, 32, [&] { strait_scale_u8_f32(&to_32, 1, factor, bias); });
            launch(1, 32, [&] { strait_scale_u8_f16(&to_16, 1, factor, bias); });
            launch(1, 32, [&] { strait_scale_u8_bf16(&to_b16, 1, factor, bias); });
            for (int i = 0; i < 256; i++) {
                float want = (float)i * factor + bias;
                if (f32[i] != want) fail("f32 differs", (u64)i, 0);
                if (f16[i].bits != to_f16(want) || bf16[i].bits != to_bf16(want)) fail("half differs", (u64)i, 0);
            }
        }
}

static float from_bf16(u16 bits) {
    u32 wide = (u32)bits << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

// Every binary16 and bfloat16, the halfway points between neighbours, and the floats beside those.
static void rounds() {
    auto check = [](float value) {
        if (std::isnan(value)) return;
        _Float16 want = (_Float16)value; // the compiler's own rounding
        u16 bits;
        std::memcpy(&bits, &want, 2);
        if (to_f16(value) != bits) fail("binary16", __float_as_uint(value), to_f16(value));
    };
    for (u32 bits = 0; bits < 0x7C00; bits++) {
        u16 low = (u16)bits, high = (u16)(bits + 1);
        _Float16 a, b;
        std::memcpy(&a, &low, 2), std::memcpy(&b, &high, 2);
        float middle = ((float)a + (std::isinf((float)b) ? 65536.0f : (float)b)) / 2;
        for (float value : {(float)a, middle, std::nextafterf(middle, 0), std::nextafterf(middle, 1e30f)})
            check(value), check(-value);
    }
    for (float value : {1e-10f, 65520.0f, 65519.996f, 1e30f, INFINITY, -INFINITY}) check(value);
    for (u32 bits = 0; bits < 0x7F7F; bits++) {
        float a = from_bf16((u16)bits), b = from_bf16((u16)(bits + 1)), middle = a + (b - a) / 2;
        u16 even = (u16)(bits + (bits & 1));
        if (to_bf16(a) != bits || to_bf16(middle) != even) fail("bfloat16", bits, to_bf16(middle));
        if (to_bf16(std::nextafterf(middle, 0)) != bits && middle != a) fail("bfloat16 below", bits, 0);
        if (to_bf16(std::nextafterf(middle, INFINITY)) != bits + 1) fail("bfloat16 above", bits, 0);
    }
    if (!(to_f16(NAN) & 0x3FF) || to_bf16(INFINITY) != 0x7F80 || !(to_bf16(NAN) & 0x7F)) fail("not a number", 0, 0);
}

int main() {
    gathers_bytes();
    takes_every_move_once();
    widens<u16, int>("u16 to i32", strait_widen_u16_i32);
    widens<u16, long long>("u16 to i64", strait_widen_u16_i64);
    widens<u32, long long>("u32 to i64", strait_widen_u32_i64);
    widens<int, long long>("i32 to i64", strait_widen_i32_i64);
    rounds();
    scales();
    std::puts("kernels: every byte in its place, every number rounded as IEEE 754 says");
}
