
// ---------------------------------------------------------------- the host's side: what a C++ program calls

#ifndef __CUDACC_RTC__
#ifndef TENFOLD_ON_CPU
#include <cuda_runtime.h>
#endif
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace sparstencil_host {

//@rules

// Which point of an axis of n stands at place `at`; -1 for the constant, and for what is never used.
static int source_of(Rule rule, long long at, long long n) {
    long long period;
    switch (rule) {
        case WRAP:
            return static_cast<int>((at % n + n) % n);
        case NEAREST:
            return static_cast<int>(at < 0 ? 0 : at >= n ? n - 1 : at);
        case REFLECT:  // (d c b a | a b c d | d c b a)
            period = 2 * n;
            at = (at % period + period) % period;
            return static_cast<int>(at < n ? at : period - 1 - at);
        case MIRROR:  // (d c b | a b c d | c b a)
            period = n > 1 ? 2 * n - 2 : 1;
            at = (at % period + period) % period;
            return static_cast<int>(at < n ? at : period - at);
        default:
            return at >= 0 && at < n ? static_cast<int>(at) : -1;
    }
}

// The table of an axis: entry i is place i + low - before, -1 beyond low and n - 1 + high.
static std::vector<int> table_of(Rule rule, int n, int low, int high, int before, int block, int extent) {
    const int tiles = (n + block - 1) / block;
    std::vector<int> found(static_cast<size_t>(before) + static_cast<size_t>(tiles) * block + extent + FRONT, -1);
    for (int i = 0; i < n + high - low; ++i) found[i + before] = source_of(rule, i + low, n);
    return found;
}

struct Room {  // device memory that is given back
    void* at = nullptr;
    cudaError_t take(size_t bytes) { return cudaMalloc(&at, bytes); }
    ~Room() {
        if (at) cudaFree(at);
    }
};

// A grid in device memory whose rows begin at 16 bytes, `phase` entries after one.
template <class Entry>
struct Rows {
    Entry* at;
    int nz, ny, nx, phase;
    i64 row() const {
        constexpr int unit = 16 / static_cast<int>(sizeof(Entry));
        return (nx + 2 * unit - 1) / unit * unit;
    }
    i64 plane() const { return row() * ny; }
    Entry* point(int z, int y, int x) const { return at + phase + z * plane() + y * row() + x; }
};

#define SPARSTENCIL_TRY(call)                                 \
    do {                                                      \
        const cudaError_t status = (call);                    \
        if (status != cudaSuccess) return static_cast<int>(status); \
    } while (0)

static int modulo(int a, int n) { return (a % n + n) % n; }

}  // namespace sparstencil_host

// `steps` steps of the grid `in`, of shape (nz, ny, nx) in C order with axes that the stencil has not at 1, into `out`: both in
// device memory, `out` smaller by the stencil's reach a step where the rule is `valid`. largest: the largest magnitude of a
// value or the constant, by which float16 is scaled; 0 for no scaling. Returns a cudaError_t.
extern "C" int sparstencil_run(const Given* in, Taken* out, int nz, int ny, int nx, int steps, double constant, double largest,
                               cudaStream_t stream) {
    using namespace sparstencil_host;
    const double reach = largest * (GAIN > 1.0 ? GAIN : 1.0);
    const double scale = SCALED && reach > 0.0 ? std::ldexp(1.0, 12 - static_cast<int>(std::ceil(std::log2(reach)))) : 1.0;
    Real up = static_cast<Real>(scale), down = static_cast<Real>(1.0 / scale);
    Real outside = static_cast<Real>(constant * (SCALES_STORED ? scale : 1.0));
    constexpr int LARGEST = sizeof(In) > sizeof(Out) ? sizeof(In) : sizeof(Out), OUT_UNIT = 16 / static_cast<int>(sizeof(Out));
    const Rows<char> whole = {nullptr, nz, ny, nx, 0};
    const size_t bytes = (static_cast<size_t>(whole.nx) + 64) * ny * nz * LARGEST + 64;
    Room rooms[2], tables[3], beyond;
    for (Room& room : rooms) SPARSTENCIL_TRY(room.take(bytes));
    SPARSTENCIL_TRY(beyond.take(sizeof(int)));
    SPARSTENCIL_TRY(cudaMemsetAsync(beyond.at, 0, sizeof(int), stream));
    int device = 0, processors = 1, each = 1;
    SPARSTENCIL_TRY(cudaGetDevice(&device));
    SPARSTENCIL_TRY(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    SPARSTENCIL_TRY(cudaFuncSetAttribute(sparstencil_step, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED));
    SPARSTENCIL_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, sparstencil_step, THREADS, SHARED));
    Rows<In> state = {static_cast<In*>(rooms[0].at), nz, ny, nx, modulo(LEAD - LOX, UNIT)};
    int turn = 0, made_for[3] = {-1, -1, -1};
    {
        const Given* from = in;
        In* to = state.point(0, 0, 0);
        i64 plane = state.plane(), row = state.row();
        void* arguments[] = {&from, &to, &nz, &ny, &nx, &plane, &row, &up};
        const void* const load = reinterpret_cast<const void*>(sparstencil_load);
        SPARSTENCIL_TRY(cudaLaunchKernel(load, dim3(4096), dim3(256), arguments, 0, stream));
    }
    Rows<Out> done = {nullptr, nz, ny, nx, 0};
    for (int step = 0; step < steps; ++step) {
        const int shape[3] = {state.nz, state.ny, state.nx}, low[3] = {LOZ, LOY, LOX}, high[3] = {HIZ, HIY, HIX};
        const int blocks[3] = {BZ, BY, BX}, extents[3] = {EZ, EY, PITCH};
        const Rule rules[3] = {RULE_Z, RULE_Y, RULE_X};
        for (int axis = 0; axis < 3; ++axis) {
            if (axis < 3 - NDIM || made_for[axis] == shape[axis]) continue;
            const int least = SHRINKS || rules[axis] == FIXED ? high[axis] - low[axis] + 1 : 1;
            if (shape[axis] < least) return static_cast<int>(cudaErrorInvalidValue);
            const std::vector<int> table = table_of(rules[axis], shape[axis], low[axis], high[axis],
                                                    axis == 2 ? FRONT + LEAD : 0, blocks[axis], extents[axis] + blocks[axis]);
            SPARSTENCIL_TRY(cudaStreamSynchronize(stream));  // a step that still reads the old one
            if (tables[axis].at) cudaFree(tables[axis].at), tables[axis].at = nullptr;
            SPARSTENCIL_TRY(tables[axis].take(table.size() * sizeof(int)));
            const size_t size = table.size() * sizeof(int);
            SPARSTENCIL_TRY(cudaMemcpy(tables[axis].at, table.data(), size, cudaMemcpyHostToDevice));
            made_for[axis] = shape[axis];
        }
        int shift = modulo(state.phase + LOX - LEAD, UNIT);
        const int phase = modulo(shift - (SHRINKS ? LOX : 0), OUT_UNIT);
        done = {static_cast<Out*>(rooms[turn ^ 1].at), state.nz, state.ny, state.nx, phase};
        if (SHRINKS) done.nz -= HIZ - LOZ, done.ny -= HIY - LOY, done.nx -= HIX - LOX;
        const In* from = state.point(0, 0, 0);
        Out* to = SHRINKS ? done.point(LOZ, LOY, LOX) : done.point(0, 0, 0);
        i64 in_plane = state.plane(), in_row = state.row(), out_plane = done.plane(), out_row = done.row();
        const i64 tiles = static_cast<i64>((state.nz + BZ - 1) / BZ) * ((state.ny + BY - 1) / BY) *
                          ((state.nx + shift + BX - 1) / BX);
        const i64 resident = static_cast<i64>(processors) * (each > 0 ? each : 1);
        void* arguments[] = {&from,     &to,        &tables[0].at, &tables[1].at, &tables[2].at, &state.nz, &state.ny, &state.nx,
                             &in_plane, &in_row,    &out_plane,    &out_row,      &shift,        &up,       &down,     &outside};
        const dim3 count(static_cast<unsigned>(tiles < resident ? tiles : resident));
        const void* const one = reinterpret_cast<const void*>(sparstencil_step);
        SPARSTENCIL_TRY(cudaLaunchKernel(one, count, dim3(THREADS), arguments, SHARED, stream));
//@next
    }
    {
        if (!steps) done = {reinterpret_cast<Out*>(state.at), nz, ny, nx, state.phase};
        const Out* from = done.point(0, 0, 0);
        i64 plane = done.plane(), row = done.row();
        void* arguments[] = {&from, &out, &done.nz, &done.ny, &done.nx, &plane, &row, &down};
        const void* const unload = reinterpret_cast<const void*>(sparstencil_unload);
        SPARSTENCIL_TRY(cudaLaunchKernel(unload, dim3(4096), dim3(256), arguments, 0, stream));
    }
    SPARSTENCIL_TRY(cudaStreamSynchronize(stream));
    int over = 0;
    SPARSTENCIL_TRY(cudaMemcpy(&over, beyond.at, sizeof(int), cudaMemcpyDeviceToHost));
    return over ? static_cast<int>(cudaErrorInvalidValue) : static_cast<int>(cudaGetLastError());
}

#ifdef SPARSTENCIL_MAIN
// nvcc -std=c++17 -arch=sm_90a -DSPARSTENCIL_MAIN this.cu -o steps && ./steps 1 4096 4096 100: a random grid, its time, its sum.
int main(int count, char** given) {
    int sizes[4] = {1, 1, 4096, 10};
    for (int i = 1; i < count && i <= 4; ++i) sizes[i - 1] = std::atoi(given[i]);
    const int nz = sizes[0], ny = sizes[1], nx = sizes[2], steps = sizes[3];
    const size_t points = static_cast<size_t>(nz) * ny * nx;
    std::vector<Given> grid(points);
    for (Given& value : grid) value = static_cast<Given>(std::rand() % 3);
    Given* in = nullptr;
    Taken* out = nullptr;
    if (cudaMalloc(&in, points * sizeof(Given)) != cudaSuccess) return 3;
    if (cudaMalloc(&out, points * sizeof(Taken)) != cudaSuccess) return 3;
    cudaMemcpy(in, grid.data(), points * sizeof(Given), cudaMemcpyHostToDevice);
    cudaEvent_t begin, end;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    cudaEventRecord(begin);
    const int status = sparstencil_run(in, out, nz, ny, nx, steps, 0.0, 2.0, nullptr);
    cudaEventRecord(end);
    cudaEventSynchronize(end);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, begin, end);
    std::printf("%s: %d steps of %zu points in %.3f ms with their copies\n",
                cudaGetErrorString(static_cast<cudaError_t>(status)), steps, points, milliseconds);
    return status ? 1 : 0;
}
#endif
#endif
