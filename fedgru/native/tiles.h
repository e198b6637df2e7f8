/* Matrix products on the tile registers of AMX, to the precision of float32.
 *
 * The tiles multiply numbers of 8 bits (bfloat16) and add in float32, 16 times as fast as vectors
 * multiply float32. A float32 is the sum of three such numbers exactly: its upper 8 bits of
 * mantissa, the next 8 and the last 8. Of the nine products of two such sums the six largest are
 * taken; each of the others is below 2^-22 of the product, and a float32 is rounded to 2^-24 of it. Six
 * products and the loading of tiles still take less than half the time of one in float32.
 * Source: Henry, Tang and Heinecke 2019 (arXiv:1904.06376), "bfloat16x3".
 *
 * A tile is 16 rows of 16 words, and each word holds two factors that are summed over: those of k and
 * k + 16, which is what two vectors of floats become without any shuffling. Three tiles, one for
 * each part, lie one after the other.
 */
#ifndef FEDGRU_TILES_H
#define FEDGRU_TILES_H

#include "vectors.h"

#define TILE_ROWS 16
#define TILE 256             /* words of a tile */
#define PARTS (3 * TILE)     /* words of a tile's three parts */

#if defined(__AMX_BF16__) && defined(__AVX512F__)
#define HAS_TILES
#include <sys/syscall.h>
#include <unistd.h>

/* Row `row` of a tile's parts: from[lane] for k = lane, and more[lane] for k = lane + 16. */
INLINE void split_row(vec from, vec more, uint32_t *tile, int64_t row) {
    for (int part = 0; part < 3; part++) {
        uvec word = ((uvec)from >> 16) | ((uvec)more & 0xffff0000u);
        memcpy(tile + part * TILE + row * LANES, &word, sizeof word);
        from -= (vec)((uvec)from & 0xffff0000u);
        more -= (vec)((uvec)more & 0xffff0000u);
    }
}

/* Ask the system for the tile registers: they enlarge what it must save of a thread. */
static int permit_tiles(void) {
#ifdef SYS_arch_prctl
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XFEATURE_XTILEDATA */) == 0;
#else
    return 0;
#endif
}

/* The compiler does not see that the tile instructions read memory: what they read is written before. */
#define WRITTEN(at) __asm__ volatile("" ::"r"(at) : "memory")

/* All eight registers as 16 rows of 64 bytes, for this thread until `close_tiles`. */
static void open_tiles(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } __attribute__((packed)) shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.row_bytes[i] = 64, shape.rows[i] = TILE_ROWS;
    WRITTEN(&shape);
    _tile_loadconfig(&shape);
}

static void close_tiles(void) { _tile_release(); }

/* A sum must wait for the one before into the same register, for as long as three or four products
   take: so products go round three or four registers. */

/* sums[j] = a @ b[j] for three tiles of columns, [3, 16, 16]; over `blocks` blocks of 32 k. */
INLINE void multiply_tiles_3(const uint32_t *a, int64_t a_step, const uint32_t *b, int64_t b_step, int64_t blocks,
                             float *sums) {
    WRITTEN(b);
    _tile_zero(0); _tile_zero(1); _tile_zero(2);
#define LOAD_3(part)                              \
    _tile_loadd(3, b + (part) * TILE, 64);         \
    _tile_loadd(4, b + PARTS + (part) * TILE, 64); \
    _tile_loadd(5, b + 2 * PARTS + (part) * TILE, 64)
#define ADD_3(left) _tile_dpbf16ps(0, left, 3); _tile_dpbf16ps(1, left, 4); _tile_dpbf16ps(2, left, 5)
    for (int64_t i = 0; i < blocks; i++, a += a_step, b += b_step) {
        LOAD_3(0);
        _tile_loadd(6, a + 2 * TILE, 64);
        ADD_3(6);
        _tile_loadd(7, a + TILE, 64);
        ADD_3(7);
        _tile_loadd(6, a, 64);
        ADD_3(6);
        LOAD_3(1);
        ADD_3(7);
        ADD_3(6);
        LOAD_3(2);
        ADD_3(6);
    }
#undef LOAD_3
#undef ADD_3
    _tile_stored(0, sums, 64); _tile_stored(1, sums + TILE, 64); _tile_stored(2, sums + 2 * TILE, 64);
}

/* sums[j] + sums[2 + j] = a @ b[j] for two tiles of columns, [4, 16, 16]. */
INLINE void multiply_tiles_2(const uint32_t *a, int64_t a_step, const uint32_t *b, int64_t b_step, int64_t blocks,
                             float *sums) {
    WRITTEN(b);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
#define LOAD_2(part) _tile_loadd(4, b + (part) * TILE, 64); _tile_loadd(5, b + PARTS + (part) * TILE, 64)
    for (int64_t i = 0; i < blocks; i++, a += a_step, b += b_step) {
        LOAD_2(0);
        _tile_loadd(6, a + 2 * TILE, 64);
        _tile_dpbf16ps(0, 6, 4); _tile_dpbf16ps(1, 6, 5);
        _tile_loadd(7, a + TILE, 64);
        _tile_dpbf16ps(2, 7, 4); _tile_dpbf16ps(3, 7, 5);
        _tile_loadd(6, a, 64);
        _tile_dpbf16ps(0, 6, 4); _tile_dpbf16ps(1, 6, 5);
        LOAD_2(1);
        _tile_dpbf16ps(2, 7, 4); _tile_dpbf16ps(3, 7, 5);
        _tile_dpbf16ps(0, 6, 4); _tile_dpbf16ps(1, 6, 5);
        LOAD_2(2);
        _tile_dpbf16ps(2, 6, 4); _tile_dpbf16ps(3, 6, 5);
    }
#undef LOAD_2
    _tile_stored(0, sums, 64); _tile_stored(1, sums + TILE, 64);
    _tile_stored(2, sums + 2 * TILE, 64); _tile_stored(3, sums + 3 * TILE, 64);
}

#else
static int permit_tiles(void) { return 0; }
#endif

#endif
