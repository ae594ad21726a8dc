// All blocks of vq_decode_tables on a CPU; built by test_kernel_vq_decode_tables.py with the kernel's macros.
#include "cuda_on_cpu.h"

#include KERNEL_FILE

extern "C" void run(int grid_x, int grid_y, const float* q, const u8* k_codes, const u8* v_codes, const u16* k_book,
                    const u16* v_book, const u8* valid, float* m, float* l, float* acc, float scale, int n,
                    int per_split, int parts, int part, i64 k_b, i64 k_h, i64 v_b, i64 v_h, i64 valid_b, i64 valid_h,
                    i64 k_book_h, i64 v_book_h) {
    for (blockIdx.y = 0; blockIdx.y < grid_y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid_x; ++blockIdx.x)
            fibers::run_block(THREADS, [&] {
                vq_decode_tables(q, k_codes, v_codes, k_book, v_book, valid, m, l, acc, scale, n, per_split, parts, part,
                                 k_b, k_h, v_b, v_h, valid_b, valid_h, k_book_h, v_book_h);
            });
}
