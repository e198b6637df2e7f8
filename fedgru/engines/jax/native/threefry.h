/* The bits that jax.random draws, with jax_threefry_partitionable (its default).
   Source: Salmon et al. 2011 (Threefry-2x32, 20 rounds); jax/_src/prng.py for keys and counters. */
#ifndef FEDGRU_THREEFRY_H
#define FEDGRU_THREEFRY_H

#include "vectors.h"

typedef struct {
    uint32_t word[2];
} Key;

/* For each of a vector of counters (high, low): two words of random bits. */
INLINE void threefry(Key key, uvec high, uvec low, uvec *first, uvec *second) {
    static const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
    const uint32_t words[3] = {key.word[0], key.word[1], key.word[0] ^ key.word[1] ^ 0x1BD11BDAu};
    uvec x = high + words[0], y = low + words[1];
    for (uint32_t group = 0; group < 5; group++) {
        for (int i = 0; i < 4; i++) {
            const int by = rotations[group % 2][i];
            x += y;
            y = ((y << by) | (y >> (32 - by))) ^ x;
        }
        x += words[(group + 1) % 3];
        y += words[(group + 2) % 3] + group + 1;
    }
    *first = x;
    *second = y;
}

/* jax.random.fold_in */
static Key fold_in(Key key, uint32_t data) {
    uvec first, second;
    threefry(key, (uvec){0}, (uvec){0} + data, &first, &second);
    return (Key){{first[0], second[0]}};
}

/* out[i] = 1 / kept if jax.random.bernoulli(key, kept, ...) is true at flat index `from + i`, else 0. */
static void draw_kept(Key key, float kept, uint32_t from, int64_t count, float *out) {
    static const uint32_t from_zero[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    uvec counter;
    memcpy(&counter, from_zero, sizeof counter);
    for (int64_t i = 0; i < count; i += LANES) {
        uvec first, second;
        threefry(key, (uvec){0}, counter + from + (uint32_t)i, &first, &second);
        vec uniform = (vec)(((first ^ second) >> 9) | 0x3f800000u) - 1.0f;
        store_some(out + i, choose(uniform < kept, all(1.0f / kept), (vec){0}), count - i);
    }
}

#endif
