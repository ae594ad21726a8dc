/* The fixed part of a CPU kernel: vectors, tiles, private rows, edges, threads.

   cpu_source.py puts in front of it what one stencil is:

     REAL, F64           the type of the grid, and whether it is double
     LOW[3], HIGH[3]     how far the stencil reaches along z, y, x (LOW <= 0 <= HIGH); axes that a grid lacks come first
     PLANES, LINES       HIGH − LOW + 1 of z and of y
     ROWS, VECTORS       of one register tile
   and behind it
     rows_many(), rows_some(), row_some()   rows of outputs: the only code that does arithmetic

   An output is one chain of fused multiply-adds from +0 in the order of the offsets, whatever vector, tile, thread or pass
   it falls in, so none of these changes a bit of it. (Without FMA in the hardware: a product and a sum, each rounded.)

   A pass takes t steps and reads one grid and writes another. A tile of outputs [a, b) needs [a + LOW, b + HIGH) of the step
   before, and so on backwards: tiles overlap, and what lies in two is computed in both. Down its first axis (rows in 2D,
   planes in 3D) a tile is a stream: each step follows the one before as closely as the stencil allows, and only the rows
   between them are kept, in a ring a step, so that all t steps of a tile stay in the cache of a core. Rows are handed to the
   arithmetic as pointers, and that is what makes the edges cheap: a row beyond an edge is the pointer of the row that stands
   there by Boundary's tables, or of a row of the constant. Along x the places beyond are filled in after each step, from the
   row itself; rows and places that `fixed` holds are copied from the grid. These are the values that a step on the whole
   grid would have read, so fused steps are the same steps. */

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef ptrdiff_t idx;

/* ---------------------------------------------------------------- vectors */

#if defined(__AVX512F__) && F64
#include <immintrin.h>
typedef __m512d vec;
typedef __mmask8 lanes;
#define W 8
#define ZERO _mm512_setzero_pd()
#define SPREAD(x) _mm512_set1_pd(x)
#define FMA(w, u, a) _mm512_fmadd_pd(w, u, a)
#define LOAD(p) _mm512_loadu_pd(p)
#define STORE(p, v) _mm512_storeu_pd(p, v)
#define STREAM(p, v) _mm512_stream_pd(p, v)
#define FIRST(n) ((lanes)((1u << (n)) - 1))
#define BUT(m, n) ((lanes)((m) & ~(n)))
#define PICK(m, a, b) _mm512_mask_blend_pd(m, b, a)
#define LOAD_SOME(p, m) _mm512_maskz_loadu_pd(m, p)
#define STORE_SOME(p, m, v) _mm512_mask_storeu_pd(p, m, v)
#define JOIN(a, b, n) _mm512_castsi512_pd(_mm512_alignr_epi64(_mm512_castpd_si512(b), _mm512_castpd_si512(a), n))
#define FENCE() _mm_sfence()
#elif defined(__AVX512F__)
#include <immintrin.h>
typedef __m512 vec;
typedef __mmask16 lanes;
#define W 16
#define ZERO _mm512_setzero_ps()
#define SPREAD(x) _mm512_set1_ps(x)
#define FMA(w, u, a) _mm512_fmadd_ps(w, u, a)
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define STREAM(p, v) _mm512_stream_ps(p, v)
#define FIRST(n) ((lanes)((1u << (n)) - 1))
#define BUT(m, n) ((lanes)((m) & ~(n)))
#define PICK(m, a, b) _mm512_mask_blend_ps(m, b, a)
#define LOAD_SOME(p, m) _mm512_maskz_loadu_ps(m, p)
#define STORE_SOME(p, m, v) _mm512_mask_storeu_ps(p, m, v)
#define JOIN(a, b, n) _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(b), _mm512_castps_si512(a), n))
#define FENCE() _mm_sfence()
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
typedef __m256i lanes;
static const int32_t EDGE[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
#define BUT(m, n) _mm256_andnot_si256(n, m)
#define FENCE() _mm_sfence()
#if F64
typedef __m256d vec;
#define W 4
#define ZERO _mm256_setzero_pd()
#define SPREAD(x) _mm256_set1_pd(x)
#define FMA(w, u, a) _mm256_fmadd_pd(w, u, a)
#define LOAD(p) _mm256_loadu_pd(p)
#define STORE(p, v) _mm256_storeu_pd(p, v)
#define STREAM(p, v) _mm256_stream_pd(p, v)
#define FIRST(n) _mm256_loadu_si256((const __m256i *)(EDGE + 8 - 2 * (n)))
#define PICK(m, a, b) _mm256_blendv_pd(b, a, _mm256_castsi256_pd(m))
#define LOAD_SOME(p, m) _mm256_maskload_pd(p, m)
#define STORE_SOME(p, m, v) _mm256_maskstore_pd(p, m, v)
#else
typedef __m256 vec;
#define W 8
#define ZERO _mm256_setzero_ps()
#define SPREAD(x) _mm256_set1_ps(x)
#define FMA(w, u, a) _mm256_fmadd_ps(w, u, a)
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define STREAM(p, v) _mm256_stream_ps(p, v)
#define FIRST(n) _mm256_loadu_si256((const __m256i *)(EDGE + 8 - (n)))
#define PICK(m, a, b) _mm256_blendv_ps(b, a, _mm256_castsi256_ps(m))
#define LOAD_SOME(p, m) _mm256_maskload_ps(p, m)
#define STORE_SOME(p, m, v) _mm256_maskstore_ps(p, m, v)
#endif
#else /* any other processor: vectors of the compiler's own; -ffp-contract=off keeps the two roundings apart */
typedef REAL vec __attribute__((vector_size(16)));
typedef unsigned lanes;
#define W ((idx)(16 / sizeof(REAL)))
#define ZERO ((vec){0})
#define SPREAD(x) ((vec){0} + (REAL)(x))
#define FMA(w, u, a) ((w) * (u) + (a))
static inline vec LOAD(const REAL *p) { vec v; memcpy(&v, p, sizeof v); return v; }
static inline void STORE(REAL *p, vec v) { memcpy(p, &v, sizeof v); }
#define STREAM(p, v) STORE(p, v)
#define FIRST(n) ((1u << (n)) - 1)
#define BUT(m, n) ((m) & ~(n))
static inline vec PICK(lanes m, vec a, vec b)
{
    for (int i = 0; i < W; i++) if (m >> i & 1) b[i] = a[i];
    return b;
}
static inline vec LOAD_SOME(const REAL *p, lanes m)
{
    vec v = ZERO;
    for (int i = 0; i < W; i++) if (m >> i & 1) v[i] = p[i];
    return v;
}
static inline void STORE_SOME(REAL *p, lanes m, vec v)
{
    for (int i = 0; i < W; i++) if (m >> i & 1) p[i] = v[i];
}
#define FENCE() (void)0
#endif

#define LINE 64 /* bytes */
#define LINE_OF ((idx)(LINE / sizeof(REAL)))
#define APART static __attribute__((noinline)) /* its registers are its own */
#define ASK(p) __builtin_prefetch(p, 0, 2) /* into the second cache: what is asked for would fill the first */
#define AHEAD 8192 /* bytes that are asked for before they are read, at least, where rows are short */
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))

/* KEEP: in a register, whatever the compiler would rather; an input that several rows use is loaded once.
   Where two vectors can be joined at any lane, a row of inputs is loaded at its own places only, and what lies n beside
   them is NEAR: lanes n … n + W − 1 of a and b, which are at p − n and behind. Loads across lines cost two. */
#if defined(__AVX2__)
#define KEEP(v) __asm__("" : "+v"(v))
#else
#define KEEP(v) (void)0
#endif
#if defined(JOIN)
#define HOLD(v) KEEP(v)
#define BEFORE(p, n) LOAD_SOME((p) - W, (lanes)(((1u << (n)) - 1) << (W - (n))))
#define BEHIND(p, n) LOAD_SOME(p, FIRST(n))
#define NEAR(a, b, n, p) JOIN(a, b, n)
#else
#define HOLD(v) (void)0
#define BEFORE(p, n) ZERO
#define BEHIND(p, n) ZERO
#define NEAR(a, b, n, p) LOAD(p)
#endif

/* ---------------------------------------------------------------- the arithmetic (cpu_source.py) */

#define TILE_LINES (ROWS * VECTORS * W / LINE_OF) /* of memory, in a register tile */
#define CHUNK 32                                  /* rows of outputs whose inputs are looked up at once */
#define STRIDE (CHUNK + LINES - 1)                /* of rows[] from plane to plane */

/* Outputs x … end − 1 of ROWS rows, from rows[plane * STRIDE + line]; row 0 reads lines 0 … LINES − 1. A pointer is that of
   place x = 0. It begins `head` places before x, where a line of memory begins; loose: what lies there, and behind the end
   up to the end of a register tile, may be read. how: STREAMED past the caches, WHOLE vectors at the ends, too. ask: lines
   of memory to ask for with each register tile, from place `asked` of the rows at ahead, pitch ay, on: in the order of
   memory, which is how the hardware reads best. */
#define ROWS_ARGUMENTS \
    const REAL *const *rows, REAL *const *outs, idx x, idx end, idx head, int loose, int how, const REAL *ahead, idx ay, \
        idx asked, idx ask
#define WIDE (VECTORS * W)
#define MOST_REACH max(HIGH[2], -LOW[2])
APART void rows_many(ROWS_ARGUMENTS);
/* The same, of ROWS rows and of one, reading nothing but what the outputs need: for what is left. */
APART void rows_some(const REAL *const *rows, REAL *const *outs, idx x, idx end);
APART void row_some(const REAL *const *rows, REAL *const *outs, idx x, idx end);

enum { STREAMED = 1, WHOLE = 2 };

/* Stores the lanes that are of x … end − 1, the first lane being at. WHOLE: the others, too, as in the row before the step.
   They are places that `fixed` holds, which this carries on, or that nobody uses, and a line has one tile: so no line need
   be fetched to write a part of it. */
static inline void put_some(REAL *row, const REAL *before, idx at, idx x, idx end, int how, vec v)
{
    if (at >= end || at + W <= x) return;
    lanes m = FIRST(min(end - at, W));
    if (at < x) m = BUT(m, FIRST(x - at));
    if (!(how & WHOLE)) STORE_SOME(row + at, m, v);
    else {
        v = PICK(m, v, LOAD(before + at));
        if (how & STREAMED) STREAM(row + at, v);
        else STORE(row + at, v);
    }
}

/* ---------------------------------------------------------------- what a run is (cpu.py: Job) */

enum { FIXED, VALID, CONSTANT, TABLE, WRAP };

typedef struct {
    int64_t n[3];             /* points of the grid along z, y, x */
    int64_t rule[3];
    int64_t tile[3];          /* outputs of a tile */
    int64_t depth[3][2];      /* places below 0 and from n on that the tables tell */
    const int64_t *below[3];  /* source of place i − depth, i = 0 … depth − 1; −1 for the constant */
    const int64_t *above[3];  /* source of place n + i */
    double value;             /* of the constant */
    int64_t along;            /* the axis a tile streams down: 0 in 3D, 1 in 2D and 1D */
    int64_t far;              /* 1: grids do not fit the cache: what is read is asked for before, results go past it */
} Job;

static idx source(const Job *job, int axis, idx i)
{
    idx n = job->n[axis];
    return i < 0 ? job->below[axis][i + job->depth[axis][0]] : i >= n ? job->above[axis][i - n] : i;
}

/* ---------------------------------------------------------------- what a tile needs, step by step */

typedef struct { idx a, b; } span; /* places a … b − 1 */

#define MOST_STEPS 128 /* of a pass */

typedef struct {
    span need[MOST_STEPS + 1]; /* what step k computes */
    span want[MOST_STEPS + 1]; /* what step k + 1 reads */
    span have[MOST_STEPS + 1]; /* what is kept of step k: inside the grid, if an edge is not repeated by computing on */
    span may;                  /* what can be computed at all */
    int edge;                  /* something wanted lies beyond the grid */
    int closed;                /* wraps round within the tile */
    int look;                  /* places beyond the grid are those of another one, or the constant */
} Cone;

/* From outputs [a, b) back through t steps along one axis. */
static void cone(const Job *job, int axis, idx a, idx b, int t, Cone *c)
{
    idx n = job->n[axis], low = LOW[axis], high = HIGH[axis], rule = job->rule[axis];
    c->edge = 0;
    c->closed = rule == WRAP && a == 0 && b == n;
    c->look = rule == TABLE || rule == CONSTANT || c->closed;
    c->may = rule == FIXED ? (span){-low, n - high} : c->look ? (span){0, n} : (span){PTRDIFF_MIN / 2, PTRDIFF_MAX / 2};
    c->need[t] = c->have[t] = (span){a, b};
    for (int k = t - 1; k >= 0; k--) {
        span want = {c->need[k + 1].a + low, c->need[k + 1].b + high};
        span need = {max(want.a, c->may.a), min(want.b, c->may.b)};
        c->edge |= want.a < 0 || want.b > n;
        if (c->look && rule != CONSTANT) /* what stands beyond an edge must be there, too */
            for (idx i = want.a; i < want.b; i = i < 0 || i >= n ? i + 1 : n) {
                idx from = source(job, axis, i);
                need = (span){min(need.a, from), max(need.b, from + 1)};
            }
        c->want[k] = want;
        c->need[k] = need;
        c->have[k] = rule == FIXED ? want : need;
    }
}

/* ---------------------------------------------------------------- rows, wherever they are */

/* Rows of a grid, or those kept of a step. at: place (0, 0, 0), were it there. ring: so many places of the axis are kept,
   0 for all; first: the lowest. look: beyond [0, n) another place stands. */
typedef struct {
    REAL *at;
    idx pz, py, ring[2], first[2];
    int look[2];
} Rows;

/* Pointers of rows ya … yb − 1 of plane z. */
static void look_up(const Job *job, const Rows *of, const REAL *constant, idx z, idx ya, idx yb, const REAL **to)
{
    idx n = job->n[1];
    if (of->look[0] && (z < 0 || z >= job->n[0])) z = source(job, 0, z);
    if (z < 0 && of->look[0]) {
        for (idx y = ya; y < yb; y++) *to++ = constant;
        return;
    }
    const REAL *plane = of->at + (of->ring[0] ? (z - of->first[0]) % of->ring[0] : z) * of->pz;
    idx a = of->look[1] ? max(ya, 0) : ya, b = of->look[1] ? min(yb, n) : yb;
    for (int part = 0; part < 2; part++) {
        for (idx y = part ? max(b, ya) : ya; y < (part ? yb : min(a, yb)); y++) {
            idx from = source(job, 1, y);
            to[y - ya] = from < 0 ? constant : plane + (of->ring[1] ? (from - of->first[1]) % of->ring[1] : from) * of->py;
        }
    }
    if (of->ring[1]) {
        idx slot = b > a ? (a - of->first[1]) % of->ring[1] : 0;
        for (idx y = a; y < b; y++, slot = slot + 1 == of->ring[1] ? 0 : slot + 1) to[y - ya] = plane + slot * of->py;
    } else
        for (idx y = a; y < b; y++) to[y - ya] = plane + y * of->py;
}

/* Rows ya … yb − 1 of plane z of the grid, and what lies beyond their ends. ahead: how far behind them lies what is copied
   next, which is asked for; 0: nothing. */
static void copy_rows(const Job *job, const REAL *grid, idx z, idx ya, idx yb, span x, REAL *const *to, idx ahead)
{
    const idx n = job->n[2], a = max(x.a, 0), b = max(min(x.b, n), a), whole = a + (b - a) / W * W;
    const idx from_z = source(job, 0, z);
    for (idx y = ya; y < yb; y++) {
        REAL *row = *to++;
        idx from_y = source(job, 1, y);
        if (from_z < 0 || from_y < 0) {
            for (idx i = x.a; i < x.b; i++) row[i] = (REAL)job->value;
            continue;
        }
        const REAL *in = grid + (from_z * job->n[1] + from_y) * n;
        for (idx i = a; i < whole; i += W) {
            if (ahead) ASK(in + ahead + i);
            STORE(row + i, LOAD(in + i));
        }
        for (idx i = whole; i < b; i++) row[i] = in[i];
        for (idx i = x.a; i < a; i++) {
            idx from = job->below[2][i + job->depth[2][0]];
            row[i] = from < 0 ? (REAL)job->value : in[from];
        }
        for (idx i = b; i < x.b; i++) {
            idx from = job->above[2][i - n];
            row[i] = from < 0 ? (REAL)job->value : in[from];
        }
    }
}

/* Places from … to − 1 of computed rows y … y + count − 1 of plane z that are not computed: of the row itself by the table, or
   as the grid holds them. */
static void mend_rows(const Job *job, const REAL *grid, idx z, idx y, idx count, idx from, idx to, int look, REAL *const *rows)
{
    const idx n = job->n[2], from_z = look ? 0 : source(job, 0, z);
    for (idx at = from; at < to; at++) {
        idx place = look ? source(job, 2, at) : at;
        if (place < 0)
            for (idx i = 0; i < count; i++) rows[i][at] = (REAL)job->value;
        else if (look)
            for (idx i = 0; i < count; i++) rows[i][at] = rows[i][place];
        else
            for (idx i = 0; i < count; i++) rows[i][at] = grid[(from_z * job->n[1] + source(job, 1, y + i)) * n + place];
    }
}

/* ---------------------------------------------------------------- a column of outputs */

typedef struct {
    const REAL *in;
    int t, first;           /* steps; the first of them whose results are kept, 0 if the grid itself is copied */
    idx unit, reach;        /* rows or planes at once; how far ahead of it a step reads */
    Cone cones[3];
    Rows kept[MOST_STEPS + 1];
    idx done[MOST_STEPS + 1];
    span x[MOST_STEPS + 1]; /* what step k computes along x: whole lines, where it can */
    const REAL *constant;   /* a row of it */
    const REAL *ahead;      /* what the first step will read next: its share is asked for in every step; NULL: nothing */
    REAL *memory;           /* private rows, grown as needed */
    size_t size;
} Column;

static int grow(Column *c, size_t size)
{
    if (c->size >= size) return 1;
    free(c->memory);
    c->size = 0;
    c->memory = aligned_alloc(4096, (size * sizeof(REAL) + 4095) / 4096 * 4096);
    if (!c->memory) return 0;
    memset(c->memory, 0, size * sizeof(REAL));
    c->size = size;
    return 1;
}

/* The nearest places of whole lines, counted from x, below and above. */
static idx lines(idx n) { return n >= 0 ? n / LINE_OF * LINE_OF : -((LINE_OF - 1 - n) / LINE_OF * LINE_OF); }
static idx line_below(idx x, idx at) { return x + lines(at - x); }
static idx line_above(idx x, idx at) { return x - lines(x - at); }

/* t steps of the outputs to[], from the grid `in` to the grid `out`, up to where nothing is done yet. 0 for want of memory. */
static int begin(const Job *job, Column *w, const REAL *in, REAL *out, const span *to, int t)
{
    const int s = (int)job->along;
    Cone *c = w->cones;
    for (int axis = 0; axis < 3; axis++) cone(job, axis, to[axis].a, to[axis].b, t, c + axis);
    /* rows whose ends lie beyond the grid are copied first, the others read where they are */
    const int first = c[2].edge ? 0 : 1;
    idx gy = job->n[2], gz = job->n[1] * gy, held = t - first;
    w->in = in;
    w->t = t;
    w->first = first;
    w->kept[0] = (Rows){(REAL *)in, gz, gy, {0, 0}, {0, 0}, {1, 1}};
    w->kept[t] = (Rows){out, gz, gy, {0, 0}, {0, 0}, {0, 0}};

    /* a ring a step, or, where the tile is small or wraps round, all of it, to and fro */
    for (int axis = 0; axis < 2; axis++) c[axis].have[0] = c[axis].want[0]; /* copied with what lies beyond */
    span most[2] = {c[0].have[min(first, t - 1)], c[1].have[min(first, t - 1)]};
    for (int k = first; k < t; k++)
        for (int axis = 0; axis < 2; axis++) {
            most[axis].a = min(most[axis].a, c[axis].have[k].a);
            most[axis].b = max(most[axis].b, c[axis].have[k].b);
        }
    idx all = most[s].b - most[s].a, reach = HIGH[s], back = -LOW[s];
    if (c[s].look) reach = back = max(reach, back);
    idx unit = s ? ROWS : 1, ring = min(2 * unit + reach + back - 1 + (s ? ROWS - 1 : 0), all);
    int whole = (c[s].closed && t > 1) || 2 * all <= held * ring || all <= unit;
    if (whole) ring = unit = all, held = min(held, 2);
    w->unit = unit;
    w->reach = reach;

    idx x = to[2].a, start = line_below(x, c[2].want[0].a) - LINE_OF, wide = (WIDE + MOST_REACH + LINE_OF - 1) / LINE_OF * LINE_OF;
    idx width = line_above(x, c[2].want[0].b) + LINE_OF - start;
    if (width * sizeof(REAL) % 4096 == 0) width += LINE_OF;
    idx plane = (s ? ring : most[1].b - most[1].a) * width, size = (s ? 1 : ring) * plane;
    if (!grow(w, max(held, 0) * size + width + 2 * wide)) return 0;
    for (int k = first; k < t; k++) {
        REAL *at = w->memory + width + wide + (whole ? k % 2 * (held > 1) : k - first) * size - start;
        if (!s) at -= most[1].a * width;
        w->kept[k] = (Rows){at, plane, width, {s ? 0 : ring, s ? ring : 0}, {most[0].a, most[1].a}, {k && c[0].look, k && c[1].look}};
    }
    w->constant = w->memory - start;
    if (job->rule[0] == CONSTANT || job->rule[1] == CONSTANT)
        for (idx i = 0; i < width + wide; i++) w->memory[i] = (REAL)job->value;

    /* Along x whole lines are faster; what is computed beyond the need is never used. */
    for (int k = 1; k <= t; k++) {
        span need = c[2].need[k];
        idx a = line_below(x, need.a), b = line_above(x, need.b);
        w->x[k] = need;
        if (k == t || (k == 1 && first && (a + LOW[2] < 0 || b + HIGH[2] > job->n[2]))) continue;
        w->x[k] = (span){min(need.a, max(a, c[2].may.a)), max(need.b, min(b, c[2].may.b))};
    }
    for (int k = 0; k <= t; k++) w->done[k] = c[s].have[k].a;
    if (first) w->done[0] = c[s].have[0].b;
    return 1;
}

/* Rows ya … yb − 1 of plane z of step k: those that `fixed` holds are copied, the others computed. */
static void band(const Job *job, const Column *w, int k, idx z, idx ya, idx yb)
{
    const Cone *cz = w->cones, *cy = w->cones + 1, *cx = w->cones + 2;
    const Rows *to = w->kept + k;
    const REAL *in[PLANES * STRIDE], *out[CHUNK];
    idx a = min(max(ya, cy->may.a), yb), b = max(min(yb, cy->may.b), a);
    if (k == 0 || z < cz->may.a || z >= cz->may.b) a = b = yb;
    const idx gy = job->n[2], ahead = k || !job->far ? 0 : job->along ? ROWS * gy : job->n[1] * gy;
    for (int part = 0; part < 2; part++)
        for (idx y = part ? b : ya, end = part ? yb : a; y < end; y += CHUNK) {
            look_up(job, to, NULL, z, y, min(y + CHUNK, end), out);
            copy_rows(job, w->in, z, y, min(y + CHUNK, end), cx->want[k], (REAL *const *)out, ahead);
        }
    const span x = w->x[k];
    const idx width = x.b - x.a, ask = w->ahead ? (TILE_LINES + w->t - 1) / w->t : 0;
    const int64_t *n = job->n;
    const int last = k == w->t;
    const Rows *from = w->kept + k - 1;
    const int far_z = z + LOW[0] > 0 && z + HIGH[0] < n[0] - 1;
    for (idx y = a; y < b; y += CHUNK) {
        idx count = min(CHUNK, b - y), back = max(ROWS - count, 0);
        if (y - back < max(cy->have[k].a, cy->may.a)) back = 0;
        y -= back, count += back; /* rows that were computed before, the same once more */
        for (int plane = 0; plane < PLANES; plane++)
            look_up(job, from, w->constant, z + LOW[0] + plane, y + LOW[1], y + count + HIGH[1], in + plane * STRIDE);
        look_up(job, to, NULL, z, y, y + count, out);
        int lined = to->py % LINE_OF == 0, aligned = count == 1 || lined, how = !last ? WHOLE : !job->far || !aligned ? 0 : lined ? STREAMED | WHOLE : STREAMED;
        idx head = aligned ? (idx)((uintptr_t)(out[0] + x.a) % LINE / sizeof(REAL)) : 0;
        int loose = k > w->first || (n[2] >= WIDE + LINE_OF + MOST_REACH &&
                                     (far_z || (y + LOW[1] > 0 && y + count + HIGH[1] < n[1])));
        for (idx i = 0; i < count; i += ROWS) {
            if (count < ROWS) {
                for (; i < count; i++) row_some(in + i, (REAL *const *)out + i, x.a, x.b);
                break;
            }
            idx g = min(i, count - ROWS), share = (k - 1) * ROWS * width / w->t;
            const REAL *ahead = w->ahead + (y + g - ya + share / width) * gy;
            rows_many(in + g, (REAL *const *)out + g, x.a, x.b, head, loose, how, ahead, gy, x.a + share % width, ask);
        }
        if (last) continue;
        /* what is wanted and was neither computed nor carried on */
        idx low = min(cx->want[k].b, cx->may.a), high = max(cx->want[k].a, cx->may.b);
        int carried = loose && !cx->look && count >= ROWS;
        if (!carried || x.a - head > cx->want[k].a)
            mend_rows(job, w->in, z, y, count, cx->want[k].a, low, cx->look, (REAL *const *)out);
        if (!carried || x.a - head + (x.b - x.a + head + W - 1) / W * W < cx->want[k].b)
            mend_rows(job, w->in, z, y, count, high, cx->want[k].b, cx->look, (REAL *const *)out);
    }
}

/* Where in the grid what the first step will read for the first time begins, after [at, end): if there are other steps to ask
   for it, too, what it reads when its turn comes again, or in 1D the next tile; else what is far enough ahead. */
static idx next_read(const Job *job, const Column *w, idx at, idx end)
{
    const idx gy = job->n[2], enough = AHEAD / sizeof(REAL), rows = ROWS * max(1, enough / (ROWS * gy));
    const span y = w->cones[1].have[1], x = w->cones[2].need[w->t];
    if (!job->along) {
        if (w->t > 1) return ((end + HIGH[0]) * job->n[1] + y.a + HIGH[1]) * gy;
        return ((at + HIGH[0]) * job->n[1] + y.a + HIGH[1] + rows) * gy;
    }
    if (job->n[1] > 1) return (at + HIGH[1] + rows) * gy;
    return w->t > 1 ? x.b - x.a : enough;
}

/* Every step once, where the one before has come far enough. */
static void advance(const Job *job, Column *w)
{
    const int s = (int)job->along;
    const Cone *c = w->cones;
    for (int k = w->first; k <= w->t; k++) {
        idx at = w->done[k], end = min(at + w->unit, c[s].have[k].b);
        if (at >= end || (k && w->done[k - 1] < min(end + w->reach, c[s].have[k - 1].b))) continue;
        if (k == 1) {
            if (!job->far || !w->first) w->ahead = NULL;
            else w->ahead = w->in + next_read(job, w, at, end);
        }
        if (s) band(job, w, k, 0, at, end);
        else
            for (idx z = at; z < end; z++) band(job, w, k, z, c[1].have[k].a, c[1].have[k].b);
        w->done[k] = end;
    }
}

/* ---------------------------------------------------------------- a tile */

/* A column, but for one step three of them: the ends of rows that feel an edge are copied before they are used, the rest
   need not be. They go down together, the ends right behind the rest, whose reading has brought them into the cache. 0 for
   want of memory. */
static int tile(const Job *job, Column *columns, const REAL *in, REAL *out, const span *to, int t)
{
    const int s = (int)job->along;
    idx a = to[2].a, b = to[2].b, from = a, till = b;
    if (t == 1 && job->rule[2] != FIXED && job->rule[2] != VALID) {
        from = min(max(line_above(0, -LOW[2]), a), b);
        till = max(min(line_below(0, job->n[2] - HIGH[2]), b), a);
        if (from >= till) from = a, till = b;
    }
    const span parts[3] = {{from, till}, {a, from}, {till, b}};
    int count = 0;
    for (int i = 0; i < 3; i++) {
        span part[3] = {to[0], to[1], parts[i]};
        if (parts[i].a < parts[i].b && !begin(job, columns + count++, in, out, part, t)) return 0;
    }
    for (;;) {
        Column *next = columns;
        for (int i = 1; i < count; i++)
            if (columns[i].done[t] < next->done[t]) next = columns + i;
        if (next->done[t] >= to[s].b) return 1;
        advance(job, next);
    }
}

/* ---------------------------------------------------------------- the tiles of a pass */

/* Outputs [a, b) of one axis after `done` steps. */
typedef struct { idx a, b, tile, pieces; } Cut;

static Cut cut(const Job *job, int axis, int t, idx done)
{
    idx n = job->n[axis], rule = job->rule[axis];
    Cut c = {0, n, job->tile[axis], 0};
    if (rule == FIXED) c.a = -LOW[axis], c.b = n - HIGH[axis];
    if (rule == VALID) c.a = -LOW[axis] * (done + t), c.b = n - HIGH[axis] * (done + t);
    idx start = c.a;
    if (axis == 2) c.tile = line_above(0, c.tile), start = line_below(0, c.a); /* a line has one tile */
    c.pieces = (c.b - start + c.tile - 1) / c.tile;
    return c;
}

static span piece(const Cut *c, int axis, idx i)
{
    idx start = (axis == 2 ? line_below(0, c->a) : c->a) + i * c->tile;
    return (span){max(start, c->a), min(start + c->tile, c->b)};
}

/* ---------------------------------------------------------------- threads */

#define MOST_THREADS 1024

typedef struct { _Alignas(LINE) atomic_long next[2]; } Turn;

typedef struct {
    const Job *job;
    const REAL *in;
    REAL *out[2];
    idx passes, done;
    int t, threads;
    Turn *turns; /* each thread begins with tiles of its own, those beside each other, and ends with those of others */
    atomic_int arrived, gate, failed, joined, begun;
} Team;

static void wait_while(atomic_int *what, int value)
{
    for (int spin = 0; spin < 4000; spin++) {
        if (atomic_load(what) != value) return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    while (atomic_load(what) == value) syscall(SYS_futex, what, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake(atomic_int *what, int value)
{
    atomic_store(what, value);
    syscall(SYS_futex, what, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* All threads pass when the last has come. */
static void meet(Team *team)
{
    int gate = atomic_load(&team->gate);
    if (atomic_fetch_add(&team->arrived, 1) == team->threads - 1) {
        atomic_store(&team->arrived, 0);
        wake(&team->gate, gate + 1);
    } else wait_while(&team->gate, gate);
}

static void *work(void *of)
{
    Team *team = of;
    wait_while(&team->begun, 0);
    int me = atomic_fetch_add(&team->joined, 1), threads = team->threads;
    Column *own = calloc(3, sizeof *own);
    if (!own) atomic_store(&team->failed, 1);
    const REAL *in = team->in;
    for (idx p = 0; p < team->passes; p++) {
        Cut cuts[3];
        idx count = 1;
        for (int axis = 0; axis < 3; axis++) {
            cuts[axis] = cut(team->job, axis, team->t, team->done + p * team->t);
            count *= cuts[axis].pieces;
        }
        atomic_store(&team->turns[me].next[(p + 1) % 2], 0); /* nobody looks at the next pass before all meet */
        for (int k = 0; k < threads; k++) {
            int whose = (me + k) % threads;
            idx a = whose * count / threads, b = (whose + 1) * count / threads;
            while (!atomic_load_explicit(&team->failed, memory_order_relaxed)) {
                idx i = a + atomic_fetch_add(&team->turns[whose].next[p % 2], 1);
                if (i >= b) break;
                span to[3] = {piece(cuts, 0, i / cuts[2].pieces / cuts[1].pieces),
                              piece(cuts + 1, 1, i / cuts[2].pieces % cuts[1].pieces), piece(cuts + 2, 2, i % cuts[2].pieces)};
                if (!tile(team->job, own, in, team->out[p % 2], to, team->t)) atomic_store(&team->failed, 1);
            }
        }
        FENCE();
        meet(team);
        in = team->out[p % 2];
    }
    for (int i = 0; own && i < 3; i++) free(own[i].memory);
    free(own);
    return NULL;
}

/* `passes` passes of t steps after `done` earlier ones: the first from `in` to `one`, the next from `one` to `two`, and so
   to and fro; `two` may be `in`. 0, or −1 for want of memory. */
int sweep(const Job *job, const REAL *in, REAL *one, REAL *two, int64_t passes, int64_t t, int64_t done, int64_t threads)
{
    if (t < 1 || t > MOST_STEPS || threads < 1) return -2;
    threads = min(threads, MOST_THREADS);
    Team team = {job, in, {one, two}, passes, done, (int)t, 1, NULL, 0, 0, 0, 0, 0};
    pthread_t others[MOST_THREADS];
    team.turns = aligned_alloc(LINE, threads * sizeof *team.turns);
    if (!team.turns) return -1;
    memset(team.turns, 0, threads * sizeof *team.turns);
    while (team.threads < threads && !pthread_create(others + team.threads, NULL, work, &team)) team.threads++;
    wake(&team.begun, 1); /* with as many as could be had */
    work(&team);
    for (int i = 1; i < team.threads; i++) pthread_join(others[i], NULL);
    free(team.turns);
    return team.failed ? -1 : 0;
}
