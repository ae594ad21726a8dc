// A generated source as a library: each kernel a function that runs all its blocks one after the other.
#include "warps_on_cpu.h"

#include KERNEL_FILE

template <class Kernel, class... Arguments>
static const char* run(Kernel kernel, int blocks, int threads, Arguments... arguments) {
    fault.clear();
    gridDim.x = blocks;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        fibers::run_block(threads, [&] { kernel(arguments...); });
        for (int i = 0; i < threads; ++i)
            if (!on_their_way[i].empty()) tell("a copy that is never waited for"), on_their_way[i].clear();
    }
    return fault.c_str();
}

extern "C" const char* step(int blocks, int threads, const In* in, Out* out, const int* from_z, const int* from_y, const int* from_x,
                            int nz, int ny, int nx, i64 in_plane, i64 in_row, i64 out_plane, i64 out_row, int shift, Real scale,
                            Real inverse, Real outside) {
    if (SHARED > static_cast<int>(sizeof shared_memory)) return "more shared memory than there is";
    return run(sparstencil_step, blocks, threads, in, out, from_z, from_y, from_x, nz, ny, nx, in_plane, in_row, out_plane, out_row,
               shift, scale, inverse, outside);
}
extern "C" const char* load(int, int, const Given* from, In* to, int nz, int ny, int nx, i64 plane, i64 row, Real scale) {
    return run(sparstencil_load, 1, 1, from, to, nz, ny, nx, plane, row, scale);
}
extern "C" const char* unload(int, int, const Out* from, Taken* to, int nz, int ny, int nx, i64 plane, i64 row, Real inverse) {
    return run(sparstencil_unload, 1, 1, from, to, nz, ny, nx, plane, row, inverse);
}
#ifdef NARROWS
extern "C" const char* narrow(int, int, const Out* from, In* to, int nz, int ny, int nx, i64 from_plane, i64 from_row, i64 plane,
                              i64 row, int* beyond) {
    return run(sparstencil_narrow, 1, 1, from, to, nz, ny, nx, from_plane, from_row, plane, row, beyond);
}
#endif
extern "C" long counted(int what) { return what == 0 ? copies : what == 1 ? vectors : products; }
