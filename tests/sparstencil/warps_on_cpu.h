// What sparstencil's generated CUDA sources use beyond cuda_on_cpu.h, on a CPU: copies that arrive when they are waited for, and
// the matrix instructions as the PTX ISA describes them.
//
// The instructions here are a second reading of the fragments and metadata words, apart from sparstencil/mma.py: from a lane's
// registers to numbers, element by element. A nibble that is undefined, a copy that is not aligned or never waited for, is told.

#pragma once
#include "cuda_on_cpu.h"

#include <string>

#define __forceinline__ inline
#define __align__(n) alignas(n)
static Index gridDim;
static std::string fault;  // the first thing that went wrong
static long copies = 0, vectors = 0, products = 0;  // 16-byte copies, vector stores and matrix instructions of all lanes so far

static void tell(const std::string& what) {
    if (fault.empty()) fault = what;
}

// The compiler calls this for each access that is not aligned as its type says: on a GPU it would fail, here it need not.
extern "C" void __ubsan_handle_type_mismatch_v1(void*, void*) { tell("an access that is not aligned"); }

static inline unsigned __float_as_uint(float value) { return bits_as<unsigned>(value); }
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static inline void __syncwarp() { fibers::warp_barriers[fibers::current / 32].wait(32); }
static inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
static inline double fused(double a, double b, double c) { return std::fma(a, b, c); }

static inline unsigned bfloat_bits(float value) {  // to nearest, ties to even
    const unsigned bits = bits_as<unsigned>(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) return bits >> 16;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
static inline unsigned bfloats(float low, float high) { return bfloat_bits(low) | bfloat_bits(high) << 16; }
static inline unsigned halves(float low, float high) { return float_to_half(low) | unsigned{float_to_half(high)} << 16; }
static inline unsigned joined(unsigned low, unsigned high) { return (low & 0xffffu) | high << 16; }

// Copies on their way: what is read before `arrived` is still noise.
struct Copy {
    void* to;
    unsigned char bytes[16];
};
static std::vector<Copy> on_their_way[1024];
static inline void copy16(void* to, const void* from) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16) tell("a 16-byte copy that is not aligned");
    ++copies;
    Copy copy;
    copy.to = to;
    std::memcpy(copy.bytes, from, 16);
    on_their_way[fibers::current].push_back(copy);
}
static inline void arrived() {
    for (const Copy& copy : on_their_way[fibers::current]) std::memcpy(copy.to, copy.bytes, 16);
    on_their_way[fibers::current].clear();
}
template <class Words>
static inline void store_words(void* to, const Words& words) {
    if (reinterpret_cast<uintptr_t>(to) % sizeof(Words)) tell("a vector store that is not aligned");
    ++vectors;
    std::memcpy(to, &words, sizeof(Words));
}
template <class Words>
static inline void store_two(void* to, const Words& words) { store_words(to, words); }
template <class Words>
static inline void store_four(void* to, const Words& words) { store_words(to, words); }

// ---------------------------------------------------------------- matrix instructions

struct Registers {
    unsigned a[4], b[4], meta;
};

struct Shape {
    std::string kind;  // f16 bf16 tf32 s8
    int k, size;       // K of the whole of A; bits of an entry
    bool sparse;
    explicit Shape(const std::string& ptx) {
        sparse = ptx.rfind("mma.sp", 0) == 0;
        k = std::stoi(ptx.substr(ptx.find("n8k") + 3));
        for (const char* name : {".bf16.bf16", ".f16.f16", ".tf32.tf32", ".s8.s8"})
            if (kind.empty() && ptx.find(name) != std::string::npos) kind = std::string(name + 1, std::strlen(name) / 2 - 1);
        size = kind == "s8" ? 8 : kind == "tf32" ? 32 : 16;
    }
    double number(unsigned bits) const {
        if (kind == "s8") return static_cast<signed char>(bits);
        if (kind == "tf32") return bits_as<float>(bits & ~0x1fffu);  // its last 13 bits are not read
        if (kind == "bf16") return bits_as<float>(bits << 16);
        return half_to_float(static_cast<uint16_t>(bits));
    }
    // Entry `at` of a lane's registers.
    double entry(const unsigned* registers, int at) const {
        const int each = 32 / size;
        const unsigned word = registers[at / each];
        return number(size == 32 ? word : (word >> (size * (at % each))) & ((1u << size) - 1));
    }
    // Stored element (row, column) of A: registers go rows g then g + 8, then the next 4 lanes' worth of columns.
    double stored(const Registers (&lanes)[32], int row, int column) const {
        const int each = 32 / size, lane = 4 * (row % 8) + column / each % 4;
        const int reg = (row >= 8 ? 1 : 0) + 2 * (column / (4 * each));
        return entry(lanes[lane].a, reg * each + column % each);
    }
    double of_b(const Registers (&lanes)[32], int row, int column) const {
        const int each = 32 / size, lane = 4 * column + row / each % 4;
        return entry(lanes[lane].b, row / (4 * each) * each + row % each);
    }
    // Four bits about group `group` of a row.
    unsigned nibble(const Registers (&lanes)[32], int selector, int row, int group) const {
        const int quad = 4 * (row % 8);
        if (kind == "s8") return lanes[quad + (row >= 8 ? 1 : 0) + 2 * (group / 8)].meta >> (4 * (group % 8)) & 15u;
        const int half = row >= 8 ? 16 : 0;
        const bool pair = k == (kind == "tf32" ? 16 : 32);  // two lanes hold an instruction's words, else one does
        const int lane = pair ? quad + 2 * selector + group / 4 : quad + selector;
        return lanes[lane].meta >> (half + 4 * (group % 4)) & 15u;
    }
    // Row of A times column of B.
    double dot(const Registers (&lanes)[32], int selector, int row, int column) const {
        double sum = 0;
        if (!sparse) {
            for (int i = 0; i < k; ++i) sum += stored(lanes, row, i) * of_b(lanes, i, column);
            return sum;
        }
        const int width = kind == "tf32" ? 2 : 4;
        for (int group = 0; group < k / width; ++group) {
            const unsigned bits = nibble(lanes, selector, row, group);
            if (width == 2) {
                if (bits != 4 && bits != 14) tell("a nibble of 1:2 metadata that is undefined");
                sum += stored(lanes, row, group) * of_b(lanes, 2 * group + (bits == 14), column);
                continue;
            }
            const int first = bits & 3, second = bits >> 2;
            if (first >= second) tell("a nibble of 2:4 metadata that is not in order");
            sum += stored(lanes, row, 2 * group) * of_b(lanes, 4 * group + first, column);
            sum += stored(lanes, row, 2 * group + 1) * of_b(lanes, 4 * group + second, column);
        }
        return sum;
    }
};

template <class Sum, size_t D, size_t A, size_t B>
static void product_on_cpu(const char* ptx, Sum (&d)[D], const unsigned (&a)[A], const unsigned (&b)[B],
                           unsigned meta = 0, int selector = 0) {
    static const char* last = nullptr;
    static Shape shape{"mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"};
    if (last != ptx) shape = Shape(last = ptx);
    const Shape mine = shape;
    Registers own = {}, lanes[32];
    std::copy(a, a + A, own.a);
    std::copy(b, b + B, own.b);
    own.meta = meta;
    fibers::exchange(own, lanes);
    ++products;
    const int g = fibers::current % 32 / 4, t = fibers::current % 4;
    for (size_t i = 0; i < D; ++i)
        d[i] = static_cast<Sum>(d[i] + mine.dot(lanes, selector, g + (i >= 2 ? 8 : 0), 2 * t + static_cast<int>(i % 2)));
}
// m8n8k4 of float64: A (g, t), B (t, g), D (g, 2 t) and (g, 2 t + 1).
struct Wide {
    double a, b;
};
static void product_on_cpu(const char*, double (&d)[2], const double (&a)[1], const double (&b)[1]) {
    Wide lanes[32];
    fibers::exchange(Wide{a[0], b[0]}, lanes);
    ++products;
    const int g = fibers::current % 32 / 4, t = fibers::current % 4;
    for (int i = 0; i < 2; ++i)
        for (int k = 0; k < 4; ++k) d[i] = std::fma(lanes[4 * g + k].a, lanes[4 * (2 * t + i) + k].b, d[i]);
}
