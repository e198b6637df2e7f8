/* The products of cell.h on the tiles of AMX. */
#ifndef FEDGRU_CELL_TILES_H
#define FEDGRU_CELL_TILES_H

#include "cell.h"

#ifdef HAS_TILES
/* Lay the recurrent kernel out for `advance_by_tiles`, and of every two blocks for `go_back_by_tiles`. */
static void lay_out_kernel_tiles(const Space *s, int64_t u) {
    const float *kernel = s->recurrent.w + u * s->H * PULLED;
    uint32_t *to = s->kernel_tiles + u * s->H / 32 * GATES * PARTS;
    for (int64_t k = 0; k < s->H; k += 32)
        for (int g = 0; g < GATES; g++, to += PARTS)
            for (int64_t row = 0; row < TILE_ROWS; row++) {
                const float *from = kernel + (k + row) * PULLED + g * LANES;
                split_row(load(from), load(from + TILE_ROWS * PULLED), to, row);
            }
    if (u % 2 == 0) return;
    for (int64_t n = 0; n < s->U; n++)
        for (int pair = 0; pair < GATES; pair++) { /* of the six gates of blocks u - 1 and u */
            float turned[2][TILE];
            for (int i = 0; i < 2; i++) {
                int64_t gate = 2 * pair + i, block = u - 1 + gate / GATES;
                transpose(s->recurrent.w + (block * s->H + n * LANES) * PULLED + gate % GATES * LANES, PULLED,
                          turned[i], LANES);
            }
            to = s->kernel_t_tiles + ((n / 2 * s->U * GATES / 2 + u / 2 * GATES + pair) * 2 + n % 2) * PARTS;
            for (int64_t row = 0; row < TILE_ROWS; row++)
                split_row(load(turned[0] + row * LANES), load(turned[1] + row * LANES), to, row);
        }
}

/* As `advance`. */
static void advance_by_tiles(const Space *s, int64_t t) {
    const int64_t blocks = s->U / 2;
    uint32_t *to = s->left_tiles;
    for (int64_t b = 0; b < s->B; b += TILE_ROWS)
        for (int64_t block = 0; block < blocks; block++, to += PARTS)
            for (int64_t row = 0; row < TILE_ROWS; row++)
                split_row(load(hidden_at(s, 2 * block, t * s->B + b + row)),
                          load(hidden_at(s, 2 * block + 1, t * s->B + b + row)), to, row);
    for (int64_t u = 0; u < s->U; u++)
        for (int64_t b = 0; b < s->B; b += TILE_ROWS) {
            float pulled[GATES * TILE];
            multiply_tiles_3(s->left_tiles + b / TILE_ROWS * blocks * PARTS, PARTS,
                             s->kernel_tiles + u * blocks * GATES * PARTS, GATES * PARTS, blocks, pulled);
            for (int64_t row = 0; row < TILE_ROWS; row++) {
                const float *at = pulled + row * LANES;
                pass_gates(s, u, t, b + row, load(at), load(at + TILE), load(at + 2 * TILE));
            }
        }
}

/* As `go_back`. */
static void go_back_by_tiles(const Space *s, int64_t t) {
    const int64_t blocks = s->U * GATES / 2;
    uint32_t *to = s->left_tiles;
    for (int64_t b = 0; b < s->B; b += TILE_ROWS)
        for (int64_t block = 0; block < blocks; block++, to += PARTS) {
            const float *from[2];
            for (int i = 0; i < 2; i++) {
                int64_t gate = 2 * block + i;
                from[i] = s->back + (gate / GATES * s->P + (t + 1) * s->B + b) * KEPT + gate % GATES * LANES;
            }
            for (int64_t row = 0; row < TILE_ROWS; row++)
                split_row(load(from[0] + row * KEPT), load(from[1] + row * KEPT), to, row);
        }
    for (int64_t u = 0; u < s->U; u += 2)
        for (int64_t b = 0; b < s->B; b += TILE_ROWS) {
            float sums[4 * TILE];
            multiply_tiles_2(s->left_tiles + b / TILE_ROWS * blocks * PARTS, PARTS,
                             s->kernel_t_tiles + u * blocks * PARTS, 2 * PARTS, blocks, sums);
            for (int64_t row = 0; row < TILE_ROWS; row++)
                for (int j = 0; j < 2; j++) {
                    const float *at = sums + j * TILE + row * LANES;
                    pull_back_further(s, u + j, t, b + row, load(at) + load(at + 2 * TILE));
                }
        }
}

/* States as `adjust_recurrent_by_tiles` takes them: sums there are over positions. */
static void lay_out_hidden_tiles(const Space *s) {
    const int64_t positions = s->length * s->B;
    uint32_t *to = s->hidden_t_tiles;
    for (int64_t u = 0; u < s->U; u++)
        for (int64_t p = 0; p < positions; p += 2 * TILE_ROWS, to += PARTS) {
            float turned[2][TILE] = {{0}};
            for (int64_t i = 0; i < 2 && p + i * TILE_ROWS < positions; i++)
                transpose(hidden_at(s, u, p + i * TILE_ROWS), LANES, turned[i], LANES);
            for (int64_t row = 0; row < TILE_ROWS; row++)
                split_row(load(turned[0] + row * LANES), load(turned[1] + row * LANES), to, row);
        }
}

/* As `adjust_recurrent`. */
static void adjust_recurrent_by_tiles(const Space *s, int64_t u) {
    const int64_t positions = s->length * s->B, blocks = up(positions, 2 * TILE_ROWS) / (2 * TILE_ROWS);
    const float *back = s->back + u * s->P * KEPT;
    for (int64_t block = 0; block < blocks; block++)
        for (int g = 0; g < GATES; g++)
            for (int64_t row = 0; row < TILE_ROWS; row++) {
                int64_t p = block * 2 * TILE_ROWS + row, next = p + TILE_ROWS;
                split_row(load(back + p * KEPT + g * LANES),
                          next < positions ? load(back + next * KEPT + g * LANES) : (vec){0},
                          s->back_tiles + (block * GATES + g) * PARTS, row);
            }
    for (int64_t k = 0; k < s->H; k += TILE_ROWS) {
        float sums[GATES * TILE];
        multiply_tiles_3(s->hidden_t_tiles + k / LANES * blocks * PARTS, PARTS, s->back_tiles, GATES * PARTS,
                         blocks, sums);
        for (int64_t row = 0; row < TILE_ROWS; row++)
            for (int g = 0; g < GATES; g++)
                adjust(s, s->recurrent, (u * s->H + k + row) * PULLED + g * LANES,
                       load(sums + g * TILE + row * LANES), s->fresh);
    }
    if (!s->last) lay_out_kernel_tiles(s, u);
}
#endif

/* The products with the recurrent kernel, and what they need laid out before. */
typedef struct {
    void (*lay_out_kernel)(const Space *, int64_t u);
    void (*advance)(const Space *, int64_t t);
    void (*go_back)(const Space *, int64_t t);
    void (*lay_out_hidden)(const Space *);
    void (*adjust_recurrent)(const Space *, int64_t u);
    void (*end)(void);
} Products;

static void nothing(void) {}
static void nothing_for(const Space *s) { (void)s; }

static Products start_products(const Space *s) {
#ifdef HAS_TILES
    if (s->tiles) {
        open_tiles();
        return (Products){lay_out_kernel_tiles, advance_by_tiles,          go_back_by_tiles,
                          lay_out_hidden_tiles, adjust_recurrent_by_tiles, close_tiles};
    }
#endif
    (void)s;
    return (Products){lay_out_kernel, advance, go_back, nothing_for, adjust_recurrent, nothing};
}

#endif
