//@head
#ifdef __CUDACC__
#pragma nv_diag_suppress 177  // not every stencil uses every function
#endif

struct alignas(16) Four {
    u32 of[4];
};
struct alignas(8) Two {
    u32 of[2];
};

// ---------------------------------------------------------------- what the hardware does

#ifndef TENFOLD_ON_CPU  // the tests supply these, and run the rest as it stands
extern __shared__ __align__(16) u8 shared_memory[];

static __device__ __forceinline__ float half_to_float(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
static __device__ __forceinline__ u16 float_to_half(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
// Two numbers in one register, the first in the low half.
static __device__ __forceinline__ u32 halves(float low, float high) {
    u32 bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}
static __device__ __forceinline__ u32 bfloats(float low, float high) {
    u32 bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}
static __device__ __forceinline__ u32 joined(u32 low, u32 high) { return __byte_perm(low, high, 0x5410); }
// 16 bytes from global to shared memory, on their way until `arrived`.
static __device__ __forceinline__ void copy16(void* to, const void* from) {
    const u32 at = static_cast<u32>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
}
static __device__ __forceinline__ void store_two(void* to, const Two& words) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(words.of[0]), "r"(words.of[1]) : "memory");
}
static __device__ __forceinline__ void store_four(void* to, const Four& words) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words.of[0]), "r"(words.of[1]),
                 "r"(words.of[2]), "r"(words.of[3])
                 : "memory");
}
// The same number, which the compiler knows nothing of.
static __device__ __forceinline__ int opaque(int value) {
    asm volatile("" : "+r"(value));
    return value;
}
static __device__ __forceinline__ void arrived() { asm volatile("cp.async.wait_all;" ::: "memory"); }
//@instructions
#else
static int opaque(int value) { return value; }
//@instructions_on_cpu
#endif

static __device__ __forceinline__ u32 word(const u8* at) { return *reinterpret_cast<const u32*>(at); }
static __device__ __forceinline__ u32 half_word(const u8* at) { return *reinterpret_cast<const u16*>(at); }
static __device__ __forceinline__ u32 byte(const u8* at) { return *at; }
static __device__ __forceinline__ double wide_word(const u8* at) { return *reinterpret_cast<const double*>(at); }

static_assert(TILE_BYTES % 16 == 0 && PLANES_AT % 16 == 0, "16-byte copies and loads");
static_assert(SCRATCH_AT % 16 == 0 && WEIGHTS_AT % 16 == 0, "16-byte loads");
static_assert(PITCH % UNIT == 0, "16-byte copies");

struct alignas(16) Chunk {
    In of[UNIT];
};
struct alignas(sizeof(Out) * VECTOR) Vector {
    Out of[VECTOR];
};
// One store: of the numbers' own type the compiler would make several.
static __device__ __forceinline__ void store(Out* to, const Vector& value) {
    if (sizeof(Vector) == 8) {
        Two words;
        memcpy(&words, &value, sizeof(words));
        store_two(to, words);
    } else {
        Four words;
        memcpy(&words, &value, sizeof(words));
        store_four(to, words);
    }
}

// ---------------------------------------------------------------- a step

struct Run {  // what all blocks have in common
    const In* in;
    Out* out;
    const int *from_z, *from_y, *from_x;
    int nz, ny, nx;
    i64 in_plane, in_row, out_plane, out_row;
    int shift;  // the first tile begins so many points before the grid
    Real scale, inverse, outside;
    int tiles_z, tiles_y, tiles_x;
    bool aligned_in, aligned_out;  // rows begin at 16 bytes and vectors may be written whole
};
struct Tile {
    int z, y, x;  // in tiles
};
struct Place {  // a tile's first point, and its place in `out`
    int z, y, x;
    i64 out;
    bool inside;  // every point of it is in the grid and none in a frozen ring
};

// What is stored where a point lies beyond a constant edge.
static __device__ __forceinline__ In outside_of(Real value) {
//@outside
}

// The tile's points and halo into shared memory: 16-byte copies, point by point through the tables at the grid's edges.
static __device__ __forceinline__ void fill(In* to, const Run& run, const Tile& tile) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int first_row = ROW_A_WARP ? warp : 0, rows = ROW_A_WARP ? WARPS : 1;
    const int first_chunk = ROW_A_WARP ? lane : static_cast<int>(threadIdx.x), chunks = ROW_A_WARP ? 32 : THREADS;
    const int z_first = tile.z * BZ + LOZ, y_first = tile.y * BY + LOY, x_first = tile.x * BX - run.shift + LOX - LEAD;
    const bool interior = run.aligned_in && z_first >= 0 && z_first + EZ <= run.nz && y_first >= 0 &&
                          y_first + EY <= run.ny && x_first >= 0 && x_first + CHUNKS * UNIT <= run.nx;
    if (interior) {
        const In* const from = run.in + z_first * run.in_plane + y_first * run.in_row + x_first;
#pragma unroll 4
        for (int row = first_row; row < EZ * EY; row += rows) {
            const In* const line = from + (row / EY) * run.in_plane + (row % EY) * run.in_row;
            for (int chunk = first_chunk; chunk < CHUNKS; chunk += chunks)
                copy16(to + row * PITCH + chunk * UNIT, line + chunk * UNIT);
        }
        return;
    }
    const int* const from_x = run.from_x + tile.x * BX + FRONT - run.shift;
    for (int row = first_row; row < EZ * EY; row += rows) {
        const int z = NDIM > 2 ? run.from_z[tile.z * BZ + row / EY] : 0;
        const int y = NDIM > 1 ? run.from_y[tile.y * BY + row % EY] : 0;
        const bool beyond = (z | y) < 0;
        const In* const line = run.in + z * run.in_plane + y * run.in_row;
        for (int chunk = first_chunk; chunk < CHUNKS; chunk += chunks) {
            const int x = x_first + chunk * UNIT;
            In* const place = to + row * PITCH + chunk * UNIT;
            if (run.aligned_in && !beyond && x >= 0 && x + UNIT <= run.nx) {
                copy16(place, line + x);
                continue;
            }
            Chunk found;
#pragma unroll
            for (int i = 0; i < UNIT; ++i) {
                const int at = from_x[chunk * UNIT + i];
                found.of[i] = beyond || at < 0 ? outside_of(run.outside) : line[at];
            }
            *reinterpret_cast<Chunk*>(place) = found;
        }
    }
}

//@convert

// What leaves: the sums as the mode wants them. u: the points' own values as they were.
static __device__ __forceinline__ Vector finished(const Sum (&sum)[VECTOR], const In* u, const Run& run) {
    Vector out;
//@finish
    return out;
}
// A point that does not change.
static __device__ __forceinline__ Out kept(In value) {
//@kept
}

// One lane's neighbours in x. z, y, x: beside the tile's first point; at: the same in `out`; u: in the tile in shared memory.
template <bool INSIDE>
static __device__ __forceinline__ void put(const Run& run, const Place& tile, const Sum (&sum)[VECTOR], const In* u, i64 at,
                                           int z, int y, int x) {
    const Vector out = finished(sum, u, run);
    Out* const to = run.out + tile.out + at;
    if (INSIDE) {
        store(to, out);
        return;
    }
    z += tile.z;
    y += tile.y;
    x += tile.x;
    const bool row_in = z < run.nz && y < run.ny;
    const bool row_new = z >= RING_LZ && z < run.nz - RING_HZ && y >= RING_LY && y < run.ny - RING_HY;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
        if (row_new && x + i >= RING_LX && x + i < run.nx - RING_HX)
            to[i] = out.of[i];
        else if (KEEP && row_in && x + i >= 0 && x + i < run.nx)
            to[i] = kept(u[i]);
    }
}

//@compute

// Adds so many tiles, along x first.
static __device__ __forceinline__ void advance(Tile& tile, const Tile& by, const Run& run) {
    tile.x += by.x;
    if (tile.x >= run.tiles_x) tile.x -= run.tiles_x, ++tile.y;
    tile.y += by.y;
    if (tile.y >= run.tiles_y) tile.y -= run.tiles_y, ++tile.z;
    tile.z += by.z;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    sparstencil_step(const In* in, Out* out, const int* from_z, const int* from_y, const int* from_x, int nz, int ny,
                     int nx, i64 in_plane, i64 in_row, i64 out_plane, i64 out_row, int shift, Real scale, Real inverse,
                     Real outside) {
    Run run = {in, out, from_z, from_y, from_x, nz, ny, nx, in_plane, in_row, out_plane, out_row, shift,
               scale, inverse, outside, (nz + BZ - 1) / BZ, (ny + BY - 1) / BY, (nx + shift + BX - 1) / BX, false, false};
    run.aligned_in = ((reinterpret_cast<u64>(in + (LOX - LEAD - shift)) | (in_row * sizeof(In)) |
                       (in_plane * sizeof(In))) & 15) == 0;
    run.aligned_out = ((reinterpret_cast<u64>(out - shift) | (out_row * sizeof(Out)) | (out_plane * sizeof(Out))) &
                       (sizeof(Vector) - 1)) == 0;
    const int total = run.tiles_z * run.tiles_y * run.tiles_x;
    int index = blockIdx.x;
    if (index >= total) return;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const Held held = hold(run, lane, warp);
    const int across = run.tiles_x * run.tiles_y, stride = gridDim.x;
    const Tile by = {stride / across, stride / run.tiles_x % run.tiles_y, stride % run.tiles_x};
    Tile tile = {index / across, index / run.tiles_x % run.tiles_y, index % run.tiles_x};
    int stage = 0;
    fill(reinterpret_cast<In*>(shared_memory), run, tile);
    for (;;) {
        const In* const raw = reinterpret_cast<const In*>(shared_memory + stage * TILE_BYTES);
        arrived();
        __syncthreads();  // the tile is here, and no warp reads the one before any more
        Tile next = tile;
        advance(next, by, run);
        index += stride;
        if (STAGES == 2 && index < total)
            fill(reinterpret_cast<In*>(shared_memory + (stage ^ 1) * TILE_BYTES), run, next);
        if (CONVERTS) {
            convert(shared_memory + PLANES_AT, raw, run);
            __syncthreads();
        }
        Place place = {tile.z * BZ, tile.y * BY, tile.x * BX - shift, 0, false};
        place.out = place.z * out_plane + place.y * out_row + place.x;
        place.inside = run.aligned_out && place.z >= RING_LZ && place.z + BZ <= nz - RING_HZ && place.y >= RING_LY &&
                       place.y + BY <= ny - RING_HY && place.x >= RING_LX && place.x + BX <= nx - RING_HX;
        const int planes = CONVERTS ? PLANES_AT : stage * TILE_BYTES;
        if (place.inside)
            compute<true>(run, place, held, planes, raw);
        else
            compute<false>(run, place, held, planes, raw);
        if (index >= total) break;
        if (STAGES == 1) {
            __syncthreads();
            fill(reinterpret_cast<In*>(shared_memory), run, next);
        }
        tile = next;
        if (STAGES == 2) stage ^= 1;
    }
}

// ---------------------------------------------------------------- to and from the caller's own grids

static __device__ __forceinline__ In stored(Given value, Real scale) {
//@stored
}
static __device__ __forceinline__ Taken taken(Out value, Real inverse) {
//@taken
}
extern "C" __global__ void sparstencil_load(const Given* from, In* to, int nz, int ny, int nx, i64 plane, i64 row, Real scale) {
    for (i64 line = blockIdx.x; line < static_cast<i64>(nz) * ny; line += gridDim.x)
        for (int x = threadIdx.x; x < nx; x += blockDim.x)
            to[line / ny * plane + line % ny * row + x] = stored(from[line * nx + x], scale);
}
extern "C" __global__ void sparstencil_unload(const Out* from, Taken* to, int nz, int ny, int nx, i64 plane, i64 row,
                                              Real inverse) {
    for (i64 line = blockIdx.x; line < static_cast<i64>(nz) * ny; line += gridDim.x)
        for (int x = threadIdx.x; x < nx; x += blockDim.x)
            to[line * nx + x] = taken(from[line / ny * plane + line % ny * row + x], inverse);
}
//@more
