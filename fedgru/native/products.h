/* Matrix products in float32, a tile of ROWS rows by two or three vectors at a time in registers. */
#ifndef FEDGRU_PRODUCTS_H
#define FEDGRU_PRODUCTS_H

#include "vectors.h"

#ifdef __AVX512F__
#define ROWS 8 /* 24 sums, 3 vectors of b and a factor, of 32 registers */
#else
#define ROWS 2 /* 12 sums, of 16 registers of eight floats */
#endif

#define AHEAD 16 /* rows of b: a panel of it just does not fit into the nearest cache beside what else is there */

/* Where the rows of a product's left side lie, a[r][k]: k runs through `blocks` of `depth`. */
typedef struct {
    const float *at;
    int64_t row, k, block;
    int64_t depth, blocks;
} Left;

/* sums[r][j] = sum over k of a[r][k] * b[k][j], r < ROWS, j < 16 * width; b's rows are `stride` apart. */
INLINE void multiply(const int width, Left a, const float *b, int64_t stride, vec *sums) {
    vec c[ROWS][3];
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < width; j++) c[r][j] = (vec){0};
    for (int64_t block = 0; block < a.blocks; block++) {
        const float *left = a.at + block * a.block;
        for (int64_t k = 0; k < a.depth; k++, left += a.k, b += stride) {
            vec right[3];
            for (int j = 0; j < width; j++) __builtin_prefetch(b + AHEAD * stride + j * LANES);
            for (int j = 0; j < width; j++) right[j] = load(b + j * LANES);
            for (int r = 0; r < ROWS; r++)
                for (int j = 0; j < width; j++) c[r][j] += left[r * a.row] * right[j];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int j = 0; j < width; j++) sums[r * width + j] = c[r][j];
}

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#else
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif

/* to[j][i] = from[i][j], 16 by 16: blocks of 8, 4, 2, 1 beside the diagonal change places. */
static void transpose(const float *from, int64_t from_stride, float *to, int64_t to_stride) {
    vec x[LANES], y[LANES];
    for (int i = 0; i < LANES; i++) x[i] = load(from + i * from_stride);
    for (int i = 0; i < 8; i++) {
        y[i] = SHUFFLE(x[i], x[i + 8], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
        y[i + 8] = SHUFFLE(x[i], x[i + 8], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
    for (int i = 0; i < LANES; i++) {
        if (i & 4) continue;
        x[i] = SHUFFLE(y[i], y[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
        x[i + 4] = SHUFFLE(y[i], y[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    }
    for (int i = 0; i < LANES; i++) {
        if (i & 2) continue;
        y[i] = SHUFFLE(x[i], x[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
        y[i + 2] = SHUFFLE(x[i], x[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
    for (int i = 0; i < LANES; i++) {
        if (i & 1) continue;
        x[i] = SHUFFLE(y[i], y[i + 1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30);
        x[i + 1] = SHUFFLE(y[i], y[i + 1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
    }
    for (int i = 0; i < LANES; i++) store(to + i * to_stride, x[i]);
}

#endif
