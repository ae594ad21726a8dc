// The few CUDA names that tenfold_kernels/cuda/*.cu use, on a CPU: one fiber a thread of a block.
//
// For tests only: it checks what a kernel computes, not how a GPU would order memory accesses. A barrier
// is passed when all fibers of the block (a warp's operation: of the warp) have reached it; fibers switch
// nowhere else, so a missing barrier shows up where a later thread's result is read too early.

#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define TENFOLD_ON_CPU 1
#define __device__
#define __global__
#define __launch_bounds__(...)
#define __shared__ static
#define __restrict__ __restrict

struct Index {
    int x = 0, y = 0, z = 0;
};
static Index threadIdx, blockIdx, blockDim;
alignas(16) static unsigned char shared_memory[256 * 1024];

namespace fibers {
struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    bool done = false;
};
static std::vector<Fiber> all;
static ucontext_t home;
static int current = 0;

static void yield() {
    const int from = current;
    int to = from;
    do to = (to + 1) % static_cast<int>(all.size());
    while (all[to].done && to != from);
    if (to == from) return;
    current = to;
    threadIdx.x = to;
    swapcontext(&all[from].context, &all[to].context);
    current = from;
    threadIdx.x = from;
}

struct Barrier {
    int arrived = 0;
    long passed = 0;
    void wait(int size) {
        const long before = passed;
        if (++arrived == size) {
            arrived = 0;
            ++passed;
        }
        while (passed == before) yield();
    }
};
static Barrier block_barrier;
static Barrier warp_barriers[32];
static std::function<void()> body;

static void entry() {
    body();
    all[current].done = true;
    for (int i = 0; i < static_cast<int>(all.size()); ++i)
        if (!all[i].done) {
            current = i;
            threadIdx.x = i;
            setcontext(&all[i].context);
        }
    setcontext(&home);
}

// Runs one block; shared memory starts as noise, as it may on a GPU.
static void run_block(int threads, std::function<void()> kernel) {
    std::memset(shared_memory, 0x7f, sizeof shared_memory);
    body = std::move(kernel);
    blockDim.x = threads;
    all.assign(threads, {});
    for (auto& fiber : all) {
        fiber.stack.resize(64 * 1024);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        makecontext(&fiber.context, entry, 0);
    }
    current = 0;
    threadIdx.x = 0;
    swapcontext(&home, &all[0].context);
}

// Every lane of the warp gets all lanes' values.
template <class T>
static void exchange(T value, T (&seen)[32]) {
    static T slots[32][32];
    const int warp = current / 32, lane = current % 32;
    slots[warp][lane] = value;
    warp_barriers[warp].wait(32);
    std::copy(slots[warp], slots[warp] + 32, seen);
    warp_barriers[warp].wait(32);
}
}  // namespace fibers

static inline void __syncthreads() { fibers::block_barrier.wait(blockDim.x); }
template <class T>
static inline T __shfl_xor_sync(unsigned, T value, int mask) {
    T seen[32];
    fibers::exchange(value, seen);
    return seen[(fibers::current % 32) ^ mask];
}
static inline int __reduce_max_sync(unsigned, int value) {
    int seen[32];
    fibers::exchange(value, seen);
    return *std::max_element(seen, seen + 32);
}
static inline unsigned __reduce_add_sync(unsigned, unsigned value) {
    unsigned seen[32], sum = 0;
    fibers::exchange(value, seen);
    for (unsigned one : seen) sum += one;
    return sum;
}
template <class T>
static inline void atomicAdd(T* at, T value) {
    *at += value;
}
template <class T>
static inline void atomicMax(T* at, T value) {
    *at = std::max(*at, value);
}
template <class T, class U>
static inline T bits_as(U value) {
    T result;
    static_assert(sizeof result == sizeof value, "the same bits");
    std::memcpy(&result, &value, sizeof result);
    return result;
}
static inline int __float_as_int(float value) { return bits_as<int>(value); }
static inline float __int_as_float(int value) { return bits_as<float>(value); }
static inline float __uint_as_float(unsigned value) { return bits_as<float>(value); }
static inline unsigned __float2uint_rn(float value) { return value > 0 ? static_cast<unsigned>(std::nearbyint(value)) : 0; }
static inline float half_to_float(uint16_t value) { return static_cast<float>(bits_as<_Float16>(value)); }
static inline uint16_t float_to_half(float value) { return bits_as<uint16_t>(static_cast<_Float16>(value)); }
using std::max;
using std::min;
