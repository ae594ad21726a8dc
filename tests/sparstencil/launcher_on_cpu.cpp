// An emitted source with its launcher as a library: the few names of the CUDA runtime that the launcher calls, on a CPU.
#include "warps_on_cpu.h"

typedef int cudaError_t;
typedef void* cudaStream_t;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum { cudaDevAttrMultiProcessorCount, cudaFuncAttributeMaxDynamicSharedMemorySize };
struct dim3 {
    unsigned x;
    explicit dim3(unsigned n) : x(n) {}
};
static int held = 0;  // allocations that are not given back
template <class T>
static cudaError_t cudaMalloc(T** at, size_t bytes) {
    *at = static_cast<T*>(aligned_alloc(256, (bytes + 255) / 256 * 256));
    std::memset(*at, 0x7b, bytes);
    ++held;
    return cudaSuccess;
}
static cudaError_t cudaFree(void* at) {
    free(at);
    --held;
    return cudaSuccess;
}
static cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t) {
    std::memset(at, value, bytes);
    return cudaSuccess;
}
static cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, int) {
    std::memcpy(to, from, bytes);
    return cudaSuccess;
}
static cudaError_t cudaGetDevice(int* device) { return *device = 0; }
static cudaError_t cudaDeviceGetAttribute(int* value, int, int) { return *value = 1, cudaSuccess; }
static cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
static cudaError_t cudaGetLastError() { return cudaSuccess; }
template <class Kernel>
static cudaError_t cudaFuncSetAttribute(Kernel, int, int) {
    return cudaSuccess;
}
template <class Kernel>
static cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* each, Kernel, int, size_t) {
    *each = 2;
    return cudaSuccess;
}
static cudaError_t cudaLaunchKernel(const void* kernel, dim3 blocks, dim3 threads, void** arguments, size_t, cudaStream_t);

#include KERNEL_FILE

// A kernel with its arguments behind pointers, as the runtime has them.
template <class... Types, size_t... At>
static void started(void (*kernel)(Types...), int blocks, int threads, void** arguments, std::index_sequence<At...>) {
    gridDim.x = blocks;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        fibers::run_block(threads, [&] { kernel(*static_cast<Types*>(arguments[At])...); });
}
template <class... Types>
static void start(void (*kernel)(Types...), int blocks, int threads, void** arguments) {
    started(kernel, blocks, threads, arguments, std::index_sequence_for<Types...>{});
}
static cudaError_t cudaLaunchKernel(const void* kernel, dim3 blocks, dim3 threads, void** arguments, size_t, cudaStream_t) {
    if (kernel == reinterpret_cast<const void*>(sparstencil_step)) start(sparstencil_step, blocks.x, threads.x, arguments);
    if (kernel == reinterpret_cast<const void*>(sparstencil_load)) start(sparstencil_load, 1, 1, arguments);
    if (kernel == reinterpret_cast<const void*>(sparstencil_unload)) start(sparstencil_unload, 1, 1, arguments);
#ifdef NARROWS
    if (kernel == reinterpret_cast<const void*>(sparstencil_narrow)) start(sparstencil_narrow, 1, 1, arguments);
#endif
    return fault.empty() ? cudaSuccess : cudaErrorInvalidValue;
}
extern "C" int left_over() { return held; }
