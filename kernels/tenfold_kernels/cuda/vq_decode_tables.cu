// One decode step over a vector-quantised KV cache, by product-quantisation tables and bins.
//
// Equation, for a query head: s_j = scale q.k_j, out = sum_j p_j v_j / sum_j p_j, p_j = exp(s_j), with
// k_j and v_j sums of centroids that packed indices pick. Instead of dequantising:
//   T[m][c] = scale q_m . k_book[m][c]          once, in shared memory (float, half for large codebooks)
//   s_j     = sum_m T[m][k_index[m][j]]         M table reads instead of D products
//   bins[m][v_index[m][j]] += p_j               M additions instead of D products
//   acc_m   = sum_c bins[m][c] v_book[m][c]     once, at the end
// Keys must have been stored after RoPE: no table holds for more than one position of a key before it.
//
// A chunk of CHUNK tokens has its own maximum; its p are added as integers in units of 2^-21 (at most
// CHUNK 2^21 = 2^31 a bin), because shared memory adds integers natively, floats by retrying, and integer
// sums do not depend on their order: results are the same bytes each time. Rounding: 2^-22 of the chunk's
// largest p a token; l is summed from the same integers, so out stays an average of values exactly.
//
// Layout: q float (B, Hq, D); codes uint8 (B, Hkv, blocks, M, BLOCK*bits/8), little-endian bit streams
// (packing.py); codebooks (Hkv, M, C, D/M) half or bfloat16; valid uint8 (B, Hkv, slots);
// m, l (B, Hq, parts) and acc (B, Hq, parts, D) float, natural logarithms, as triton/vq_decode.py has them.
// Grid (splits, B*Hq/HEADS), 256 threads; a block serves HEADS query heads of one group, four tokens a
// thread. Macros: HKV G HEADS D K_M K_C K_BITS V_M V_C V_BITS BLOCK CHUNK BFLOAT TABLE_BYTES.
// Dynamic shared memory: HEADS (V_M V_C 4 + CHUNK 4 + K_M K_C TABLE_BYTES) bytes.
//
// Bytes: M bits/8 of keys and of values and 1 a token, once for every HEADS query heads; codebooks once a
// block. Traffic on chip a token and query head: K_M TABLE_BYTES read, V_M 4 added. Flops of the tables and
// of the end: 4 C D a query head and block, worthwhile where a split is much longer than C.
//
// No header is included, so that it compiles with NVRTC alone (CuPy); the tests run it on a CPU by
// supplying the few CUDA names it uses (TENFOLD_ON_CPU).

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#ifndef TENFOLD_ON_CPU
__device__ inline float half_to_float(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ inline u16 float_to_half(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
extern __shared__ __align__(16) u8 shared_memory[];
#endif

constexpr int THREADS = 256, WARPS = THREADS / 32, FOUR = 4;
constexpr int K_SUB = D / K_M, V_SUB = D / V_M;
constexpr int BINS = HEADS * V_M * V_C, MINE = (BINS + THREADS - 1) / THREADS;
constexpr int WARPS_A_COLUMN = V_M >= WARPS ? 1 : WARPS / V_M;  // warps that share a sub-vector at the end
constexpr float UNIT = 2097152.0f, LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
static_assert(CHUNK == THREADS * FOUR, "four tokens a thread");
static_assert(BLOCK % FOUR == 0, "four tokens of a thread stand in one block");
static_assert(WARPS_A_COLUMN * D <= CHUNK, "the end's partial sums take the scores' place");

#if TABLE_BYTES == 4
typedef float Entry;
__device__ inline float read_entry(Entry entry) { return entry; }
__device__ inline Entry make_entry(float value) { return value; }
#else
typedef u16 Entry;
__device__ inline float read_entry(Entry entry) { return half_to_float(entry); }
__device__ inline Entry make_entry(float value) { return float_to_half(value); }
#endif
struct alignas(HEADS * sizeof(Entry)) Entries {  // one table entry of all heads: a single read
    Entry of[HEADS];
};

__device__ inline float widen(u16 bits) {
#if BFLOAT
    return __uint_as_float(static_cast<u32>(bits) << 16);
#else
    return half_to_float(bits);
#endif
}

// A centroid's channels, read in pieces of up to 16 bytes.
template <int SUB>
__device__ inline void read_centroid(const u16* __restrict__ from, float (&to)[SUB]) {
    constexpr int PIECE = SUB < 8 ? SUB : 8;
    struct alignas(PIECE * 2) Piece {
        u16 of[PIECE];
    };
#pragma unroll
    for (int at = 0; at < SUB; at += PIECE) {
        const Piece piece = *reinterpret_cast<const Piece*>(from + at);
#pragma unroll
        for (int i = 0; i < PIECE; ++i) to[at + i] = widen(piece.of[i]);
    }
}

// Four successive indices of one sub-vector's stream; `first` is a multiple of four.
template <int BITS>
__device__ inline void read_indices(const u8* __restrict__ row, int first, int (&index)[FOUR]) {
    const u8* from = row + first / FOUR * (BITS / 2);
    u64 word = 0;
    if constexpr (BITS == 8) {
        word = *reinterpret_cast<const u32*>(from);
    } else if constexpr (BITS == 12) {
#pragma unroll
        for (int i = 0; i < 3; ++i) word |= static_cast<u64>(reinterpret_cast<const u16*>(from)[i]) << (16 * i);
    } else {
#pragma unroll
        for (int i = 0; i < BITS / 2; ++i) word |= static_cast<u64>(from[i]) << (8 * i);
    }
#pragma unroll
    for (int i = 0; i < FOUR; ++i) index[i] = static_cast<int>(word >> (BITS * i)) & ((1 << BITS) - 1);
}

// Integers that are ordered as the floats are, for maxima without floats' atomics.
__device__ inline int ordered(float value) {
    const int bits = __float_as_int(value);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}
__device__ inline float unordered(int bits) { return __int_as_float(bits ^ ((bits >> 31) & 0x7fffffff)); }

extern "C" __global__ void __launch_bounds__(THREADS)
    vq_decode_tables(const float* __restrict__ q, const u8* __restrict__ k_codes, const u8* __restrict__ v_codes,
                     const u16* __restrict__ k_book, const u16* __restrict__ v_book, const u8* __restrict__ valid,
                     float* __restrict__ m_out, float* __restrict__ l_out, float* __restrict__ acc_out, float scale,
                     int n, int per_split, int parts, int part, i64 k_b, i64 k_h, i64 v_b, i64 v_h, i64 valid_b,
                     i64 valid_h, i64 k_book_h, i64 v_book_h) {
    u32* bins = reinterpret_cast<u32*>(shared_memory);                     // [HEADS][V_M * V_C]
    float* scores = reinterpret_cast<float*>(bins + BINS);                 // [HEADS][CHUNK]
    Entries* table = reinterpret_cast<Entries*>(scores + HEADS * CHUNK);   // [K_M * K_C]
    __shared__ int top_bits[HEADS];
    __shared__ u32 weight[HEADS];

    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const i64 head = static_cast<i64>(blockIdx.y) * HEADS;
    const i64 row = head / (HKV * G), kv = head / G % HKV;
    k_codes += row * k_b + kv * k_h;
    v_codes += row * v_b + kv * v_h;
    k_book += kv * k_book_h;
    v_book += kv * v_book_h;
    valid += row * valid_b + kv * valid_h;
    q += head * D;

    for (int entry = thread; entry < K_M * K_C; entry += THREADS) {
        const int m = entry / K_C;
        float centroid[K_SUB];
        read_centroid<K_SUB>(k_book + static_cast<i64>(entry) * K_SUB, centroid);
        Entries made;
#pragma unroll
        for (int g = 0; g < HEADS; ++g) {
            float product = 0.0f;
#pragma unroll
            for (int i = 0; i < K_SUB; ++i) product += q[g * D + m * K_SUB + i] * centroid[i];
            made.of[g] = make_entry(product * (scale * LOG2E));
        }
        table[entry] = made;
    }
    for (int i = thread; i < BINS; i += THREADS) bins[i] = 0;

    const float none = __int_as_float(0xff800000);  // -infinity
    float m_run[HEADS], l_run[HEADS], total[MINE];
#pragma unroll
    for (int g = 0; g < HEADS; ++g) m_run[g] = none, l_run[g] = 0.0f;
#pragma unroll
    for (int i = 0; i < MINE; ++i) total[i] = 0.0f;

    const int begin = blockIdx.x * per_split;
    const int end = min(n, begin + per_split);
    for (int chunk = begin; chunk < end; chunk += CHUNK) {
        if (thread < HEADS) top_bits[thread] = ordered(none), weight[thread] = 0;
        __syncthreads();

        const int slot = chunk + thread * FOUR;
        const i64 block = slot / BLOCK;
        const int within = slot % BLOCK;
        bool open[FOUR];
        bool any = false;
#pragma unroll
        for (int i = 0; i < FOUR; ++i) any |= open[i] = slot + i < end && valid[slot + i] != 0;
        float s[HEADS][FOUR];
#pragma unroll
        for (int g = 0; g < HEADS; ++g)
#pragma unroll
            for (int i = 0; i < FOUR; ++i) s[g][i] = open[i] ? 0.0f : none;
        if (any) {
            const u8* codes = k_codes + block * (K_M * (BLOCK * K_BITS / 8));
#pragma unroll 8
            for (int m = 0; m < K_M; ++m) {
                int index[FOUR];
                read_indices<K_BITS>(codes + m * (BLOCK * K_BITS / 8), within, index);
#pragma unroll
                for (int i = 0; i < FOUR; ++i) {
                    const Entries entries = table[m * K_C + index[i]];
#pragma unroll
                    for (int g = 0; g < HEADS; ++g) s[g][i] += read_entry(entries.of[g]);
                }
            }
        }
#pragma unroll
        for (int g = 0; g < HEADS; ++g) {
            int most = ordered(none);
#pragma unroll
            for (int i = 0; i < FOUR; ++i) most = max(most, ordered(s[g][i]));
            most = __reduce_max_sync(0xffffffffu, most);
            if (lane == 0) atomicMax(&top_bits[g], most);
        }
        __syncthreads();

        float top[HEADS];
        u32 units[HEADS][FOUR];
#pragma unroll
        for (int g = 0; g < HEADS; ++g) {
            top[g] = unordered(top_bits[g]);
            u32 sum = 0;
#pragma unroll
            for (int i = 0; i < FOUR; ++i) {
                units[g][i] = open[i] ? __float2uint_rn(exp2f(s[g][i] - top[g]) * UNIT) : 0;
                sum += units[g][i];
            }
            sum = __reduce_add_sync(0xffffffffu, sum);
            if (lane == 0) atomicAdd(&weight[g], sum);
        }
        if (any) {
            const u8* codes = v_codes + block * (V_M * (BLOCK * V_BITS / 8));
#pragma unroll 8
            for (int m = 0; m < V_M; ++m) {
                int index[FOUR];
                read_indices<V_BITS>(codes + m * (BLOCK * V_BITS / 8), within, index);
#pragma unroll
                for (int i = 0; i < FOUR; ++i)
#pragma unroll
                    for (int g = 0; g < HEADS; ++g)
                        if (units[g][i]) atomicAdd(&bins[(g * V_M + m) * V_C + index[i]], units[g][i]);
            }
        }
        __syncthreads();

        float shrink[HEADS], grow[HEADS];
#pragma unroll
        for (int g = 0; g < HEADS; ++g) {
            // A chunk without a key, and the first with one, must not meet infinity minus infinity.
            const float next = top[g] == none ? m_run[g] : (m_run[g] == none ? top[g] : fmaxf(m_run[g], top[g]));
            shrink[g] = m_run[g] == none ? 0.0f : exp2f(m_run[g] - next);
            grow[g] = top[g] == none ? 0.0f : exp2f(top[g] - next) / UNIT;
            l_run[g] = l_run[g] * shrink[g] + static_cast<float>(weight[g]) * grow[g];
            m_run[g] = next;
        }
#pragma unroll
        for (int i = 0; i < MINE; ++i) {
            const int bin = i * THREADS + thread;
            if (bin < BINS) {
                float shrink_here = shrink[0], grow_here = grow[0];
#pragma unroll
                for (int g = 1; g < HEADS; ++g)
                    if (bin >= g * V_M * V_C) shrink_here = shrink[g], grow_here = grow[g];
                total[i] = total[i] * shrink_here + static_cast<float>(bins[bin]) * grow_here;
                bins[bin] = 0;
            }
        }
        __syncthreads();
    }

    float* sums = reinterpret_cast<float*>(bins);
#pragma unroll
    for (int i = 0; i < MINE; ++i)
        if (i * THREADS + thread < BINS) sums[i * THREADS + thread] = total[i];
    __syncthreads();
    for (int job = warp; job < V_M * WARPS_A_COLUMN; job += WARPS) {
        const int m = job / WARPS_A_COLUMN, share = job % WARPS_A_COLUMN;
        float acc[HEADS][V_SUB];
#pragma unroll
        for (int g = 0; g < HEADS; ++g)
#pragma unroll
            for (int i = 0; i < V_SUB; ++i) acc[g][i] = 0.0f;
#pragma unroll 2
        for (int c = share * 32 + lane; c < V_C; c += WARPS_A_COLUMN * 32) {
            float centroid[V_SUB];
            read_centroid<V_SUB>(v_book + static_cast<i64>(m * V_C + c) * V_SUB, centroid);
#pragma unroll
            for (int g = 0; g < HEADS; ++g) {
                const float times = sums[(g * V_M + m) * V_C + c];
#pragma unroll
                for (int i = 0; i < V_SUB; ++i) acc[g][i] += times * centroid[i];
            }
        }
#pragma unroll
        for (int g = 0; g < HEADS; ++g)
#pragma unroll
            for (int i = 0; i < V_SUB; ++i) {
#pragma unroll
                for (int step = 16; step > 0; step /= 2) acc[g][i] += __shfl_xor_sync(0xffffffffu, acc[g][i], step);
                if (lane == 0) scores[(share * HEADS + g) * D + m * V_SUB + i] = acc[g][i];
            }
    }
    __syncthreads();
    const i64 place = part + blockIdx.x;
    for (int i = thread; i < HEADS * D; i += THREADS) {
        float sum = 0.0f;
#pragma unroll
        for (int share = 0; share < WARPS_A_COLUMN; ++share) sum += scores[share * HEADS * D + i];
        acc_out[((head + i / D) * parts + place) * D + i % D] = sum;
    }
#pragma unroll
    for (int g = 0; g < HEADS; ++g)
        if (thread == g) {
            m_out[(head + g) * parts + place] = m_run[g] * LN2;
            l_out[(head + g) * parts + place] = l_run[g];
        }
}
