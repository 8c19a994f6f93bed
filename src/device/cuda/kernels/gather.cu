// Gathers pieces of a batch's region into its dense tensors, on the device; and gathers elements that change on the way.
//
//   moves   | source, target, bytes | source, target, bytes | ...        24 bytes each, in device or pinned memory
//   warps   |         0             |          1            | ...        a warp takes a move, then the one `warps` on
//
// Pieces start at any byte: a sample lies in the region as it lay in its file. A warp writes 16-byte words, whole and
// aligned, and puts each together from the aligned 4-byte words that its bytes lie in. So no load leaves a 4-byte word of
// which some byte was asked for, and none leaves the allocation.
//
// The host cuts moves so that no warp has much more to do than another. `scripts/ptx` compiles this file to gather.ptx;
// `tests/kernels` runs it on a CPU.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct Move {
    u64 source;
    u64 target;
    u64 bytes; // of the source
};

#define LANES 32

static __device__ u32 warp_index() { return (blockIdx.x * blockDim.x + threadIdx.x) / LANES; }
static __device__ u32 warp_count() { return gridDim.x * blockDim.x / LANES; }
static __device__ u32 lane_index() { return threadIdx.x % LANES; }

// The 4 bytes at any address, from the one or two aligned words that they lie in. `low` is the first of those words and
// `shift` how many bits of it come before.
static __device__ u32 join(u32 low, u32 high, u32 shift) {
    return shift == 0 ? low : (low >> shift) | (high << (32 - shift));
}

static __device__ void copy_16(u8 *target, const u8 *source) {
    u32 shift = (u32)((u64)source % 4) * 8;
    const u32 *words = (const u32 *)(source - (u64)source % 4);
    u32 w0 = words[0], w1 = words[1], w2 = words[2], w3 = words[3];
    u32 w4 = shift == 0 ? 0 : words[4];
    uint4 out;
    out.x = join(w0, w1, shift);
    out.y = join(w1, w2, shift);
    out.z = join(w2, w3, shift);
    out.w = join(w3, w4, shift);
    *(uint4 *)target = out;
}

// Copies every move. Sources and targets do not overlap.
extern "C" __global__ void strait_gather(const Move *moves, u32 count) {
    for (u32 i = warp_index(); i < count; i += warp_count()) {
        const u8 *source = (const u8 *)moves[i].source;
        u8 *target = (u8 *)moves[i].target;
        u64 bytes = moves[i].bytes;
        u64 head = (16 - (u64)target % 16) % 16;
        if (head > bytes) head = bytes;
        u64 words = (bytes - head) / 16;
        u64 tail = head + words * 16;
        for (u64 at = lane_index(); at < head; at += LANES) target[at] = source[at];
        if ((u64)(source + head) % 16 == 0) {
            for (u64 word = lane_index(); word < words; word += LANES)
                ((uint4 *)(target + head))[word] = ((const uint4 *)(source + head))[word];
        } else {
            for (u64 word = lane_index(); word < words; word += LANES)
                copy_16(target + head + word * 16, source + head + word * 16);
        }
        for (u64 at = tail + lane_index(); at < bytes; at += LANES) target[at] = source[at];
    }
}

// Little-endian, at any address.
template <typename T> static __device__ T load(const u8 *source) {
    if ((u64)source % sizeof(T) == 0) return *(const T *)source;
    T value = 0;
    for (u32 i = 0; i < sizeof(T); i++) value |= (T)((T)source[i] << (8 * i));
    return value;
}

// Widens whole numbers: tokens. `Bits` is `From` without a sign. Targets are aligned to their elements.
template <typename Bits, typename From, typename To> static __device__ void widen(const Move *moves, u32 count) {
    for (u32 i = warp_index(); i < count; i += warp_count()) {
        const u8 *source = (const u8 *)moves[i].source;
        To *target = (To *)moves[i].target;
        u64 elements = moves[i].bytes / sizeof(Bits);
        for (u64 at = lane_index(); at < elements; at += LANES)
            target[at] = (To)(From)load<Bits>(source + at * sizeof(Bits));
    }
}

extern "C" __global__ void strait_widen_u16_i32(const Move *moves, u32 count) { widen<u16, u16, int>(moves, count); }
extern "C" __global__ void strait_widen_u16_i64(const Move *moves, u32 count) { widen<u16, u16, long long>(moves, count); }
extern "C" __global__ void strait_widen_u32_i64(const Move *moves, u32 count) { widen<u32, u32, long long>(moves, count); }
extern "C" __global__ void strait_widen_i32_i64(const Move *moves, u32 count) { widen<u32, int, long long>(moves, count); }

// The nearest IEEE binary16, ties to even. Done by hand: cuda_fp16.h is not the compiler's, and bfloat16 has no instruction
// before sm_80.
static __device__ u16 to_f16(float value) {
    u32 bits = __float_as_uint(value), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7FFFFFFFu;
    if (rest > 0x7F800000u) return (u16)(sign | 0x7E00u);
    if (rest >= 0x477FF000u) return (u16)(sign | 0x7C00u); // rounds to 65536 or more
    if (rest < 0x33000001u) return (u16)sign;              // at most half of the smallest subnormal: to even, 0
    u32 exponent = rest >> 23, fraction = (rest & 0x7FFFFFu) | 0x800000u;
    u32 drop = exponent < 113 ? 126 - exponent : 13; // subnormals keep fewer bits
    u32 half = 1u << (drop - 1), below = fraction & ((1u << drop) - 1), kept = fraction >> drop;
    if (below > half || (below == half && (kept & 1))) kept++;
    u32 base = exponent < 113 ? 0 : (exponent - 113) << 10; // `kept` carries the leading one: it counts as one exponent
    return (u16)(sign | (base + kept));
}

static __device__ u16 to_bf16(float value) {
    u32 bits = __float_as_uint(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (u16)((bits >> 16) | 0x40u);
    return (u16)((bits + 0x7FFFu + ((bits >> 16) & 1)) >> 16);
}

static __device__ void put(float *target, float value) { *target = value; }

struct F16 {
    u16 bits;
};
struct BF16 {
    u16 bits;
};
static __device__ void put(F16 *target, float value) { target->bits = to_f16(value); }
static __device__ void put(BF16 *target, float value) { target->bits = to_bf16(value); }

// Bytes to numbers: `value * scale + bias`, rounded once for the product and once for the sum.
template <typename To> static __device__ void scale(const Move *moves, u32 count, float factor, float bias) {
    for (u32 i = warp_index(); i < count; i += warp_count()) {
        const u8 *source = (const u8 *)moves[i].source;
        To *target = (To *)moves[i].target;
        for (u64 at = lane_index(); at < moves[i].bytes; at += LANES)
            put(target + at, __fadd_rn(__fmul_rn((float)source[at], factor), bias));
    }
}

extern "C" __global__ void strait_scale_u8_f32(const Move *moves, u32 count, float factor, float bias) {
    scale<float>(moves, count, factor, bias);
}
extern "C" __global__ void strait_scale_u8_f16(const Move *moves, u32 count, float factor, float bias) {
    scale<F16>(moves, count, factor, bias);
}
extern "C" __global__ void strait_scale_u8_bf16(const Move *moves, u32 count, float factor, float bias) {
    scale<BF16>(moves, count, factor, bias);
}
