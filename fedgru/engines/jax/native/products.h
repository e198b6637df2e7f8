/* Matrix products in float32, a tile of some rows by two or three vectors at a time in registers. */
#ifndef FEDGRU_PRODUCTS_H
#define FEDGRU_PRODUCTS_H

#include "vectors.h"

/* Rows of a tile: the most for which all sums, 3 vectors of b and a factor fit into registers. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define ROWS 8 /* 24 sums of 32 registers */
#else
#define ROWS 4 /* 12 sums of 16 registers */
#endif
#define UNITS (ROWS < LANES ? ROWS : LANES) /* rows that are hidden units: all are of one block */

#define LINE 16 /* floats of a line of the cache */
#define AHEAD 16 /* rows of b to prefetch: a panel of b is a little too large for the nearest cache */

/* Where the rows of a product's left side are, a[r][k]: k runs through `blocks` of `depth`. */
typedef struct {
    const float *at;
    int64_t row, k, block;
    int64_t depth, blocks;
} Left;

/* sums[r][j] = sum over k of a[r][k] * b[k][j], r < rows, j < LANES * width; b's rows are `stride` apart. */
INLINE void multiply(const int rows, const int width, Left a, const float *b, int64_t stride, vec *sums) {
    vec c[ROWS][3];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < width; j++) c[r][j] = (vec){0};
    for (int64_t block = 0; block < a.blocks; block++) {
        const float *left = a.at + block * a.block;
        for (int64_t k = 0; k < a.depth; k++, left += a.k, b += stride) {
            vec right[3];
            for (int at = 0; at < width * LANES; at += LINE) __builtin_prefetch(b + AHEAD * stride + at);
            for (int j = 0; j < width; j++) right[j] = in_register(load(b + j * LANES));
            for (int r = 0; r < rows; r++)
                for (int j = 0; j < width; j++) c[r][j] += left[r * a.row] * right[j];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < width; j++) sums[r * width + j] = c[r][j];
}

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#else
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif

/* For rows a and b of x that are `apart` rows apart, exchange the blocks of that size off the diagonal: a[.., apart..]
 * with b[.., 0..]. LOW gives the new a, HIGH the new b. */
#define EXCHANGE(x, apart, LOW, HIGH)                         \
    for (int i = 0; i < LANES; i++)                           \
        if (!(i & (apart))) {                                 \
            vec a = x[i], b = x[i + (apart)];                 \
            x[i] = LOW(a, b), x[i + (apart)] = HIGH(a, b);    \
        }

#if LANES == 16
#define LOW_8(a, b) SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#define HIGH_8(a, b) SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
#define LOW_4(a, b) SHUFFLE(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
#define HIGH_4(a, b) SHUFFLE(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31)
#define LOW_2(a, b) SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_2(a, b) SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define LOW_1(a, b) SHUFFLE(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)
#define HIGH_1(a, b) SHUFFLE(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31)
#elif LANES == 8
#define LOW_4(a, b) SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define HIGH_4(a, b) SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#define LOW_2(a, b) SHUFFLE(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_2(a, b) SHUFFLE(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define LOW_1(a, b) SHUFFLE(a, b, 0, 8, 2, 10, 4, 12, 6, 14)
#define HIGH_1(a, b) SHUFFLE(a, b, 1, 9, 3, 11, 5, 13, 7, 15)
#else
#define LOW_2(a, b) SHUFFLE(a, b, 0, 1, 4, 5)
#define HIGH_2(a, b) SHUFFLE(a, b, 2, 3, 6, 7)
#define LOW_1(a, b) SHUFFLE(a, b, 0, 4, 2, 6)
#define HIGH_1(a, b) SHUFFLE(a, b, 1, 5, 3, 7)
#endif

/* to[j][i] = from[i][j], LANES by LANES. */
static void transpose(const float *from, int64_t from_stride, float *to, int64_t to_stride) {
    vec x[LANES];
    for (int i = 0; i < LANES; i++) x[i] = load(from + i * from_stride);
#if LANES == 16
    EXCHANGE(x, 8, LOW_8, HIGH_8)
#endif
#if LANES >= 8
    EXCHANGE(x, 4, LOW_4, HIGH_4)
#endif
    EXCHANGE(x, 2, LOW_2, HIGH_2)
    EXCHANGE(x, 1, LOW_1, HIGH_1)
    for (int i = 0; i < LANES; i++) store(to + i * to_stride, x[i]);
}

#endif
