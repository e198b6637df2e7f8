/* Vectors as wide as a register of the processor, as GCC and Clang spell them. */
#ifndef FEDGRU_VECTORS_H
#define FEDGRU_VECTORS_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE__
#include <immintrin.h>
#endif
#ifdef __aarch64__
#include <arm_neon.h>
#endif

/* Floats in a register. Wider vectors would compile as well, but GCC sends them through memory, at a tenth
 * of the speed. Tiles of products, transposition and the layout of blocks follow from this number. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4 /* SSE, NEON */
#endif

/* From now on numbers too small for full precision (denormals) become zero in this thread, as in XLA's threads.
 * Moments shrink to such numbers where there is no gradient any more, and one of them takes the time of a hundred
 * others. Returns the argument of `restore_denormals`.
 */
static inline uint64_t flush_denormals(void) {
#if defined(__SSE__)
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* flush to zero, denormals are zero */
    return before;
#elif defined(__aarch64__)
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | 1 << 24)); /* flush to zero, inputs too */
    return before;
#else
    return 0;
#endif
}

static inline void restore_denormals(uint64_t before) {
#if defined(__SSE__)
    _mm_setcsr((unsigned)before);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
#else
    (void)before;
#endif
}

#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));

INLINE vec load(const float *from) {
    vec x;
    memcpy(&x, from, sizeof x);
    return x;
}

/* Return x, kept in a register. GCC would load it again for each product; a processor with two FMA units and two
 * loads a cycle would then wait for loads. With AVX-512 there are so many registers that GCC keeps it by itself. */
INLINE vec in_register(vec x) {
#if defined(__SSE__) && !defined(__AVX512F__)
    __asm__("" : "+x"(x));
#elif defined(__aarch64__)
    __asm__("" : "+w"(x));
#endif
    return x;
}

INLINE void store(float *to, vec x) { memcpy(to, &x, sizeof x); }

/* The first `count` floats of a vector, then zeros. */
INLINE vec load_some(const float *from, int64_t count) {
    if (count >= LANES) return load(from);
    vec x = {0};
    memcpy(&x, from, (size_t)count * sizeof *from);
    return x;
}

INLINE void store_some(float *to, vec x, int64_t count) {
    memcpy(to, &x, (size_t)(count < LANES ? count : LANES) * sizeof *to);
}

INLINE vec all(float x) { return x - (vec){0}; }

INLINE vec choose(ivec where, vec yes, vec no) {
    return (vec)(((ivec)yes & where) | ((ivec)no & ~where));
}

/* The larger and the smaller of each pair; b where one is NaN. */
INLINE vec larger(vec a, vec b) {
#ifdef __AVX512F__
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE__)
    return (vec)_mm_max_ps((__m128)a, (__m128)b);
#else
    return choose(a > b, a, b);
#endif
}

INLINE vec smaller(vec a, vec b) {
#ifdef __AVX512F__
    return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE__)
    return (vec)_mm_min_ps((__m128)a, (__m128)b);
#else
    return choose(a < b, a, b);
#endif
}

/* 1 / x, to 2 units in the last place; x is neither 0 nor infinite. A division takes four times as long. */
INLINE vec reciprocal(vec x) {
#ifdef __AVX512F__
    vec y = (vec)_mm512_rcp14_ps((__m512)x);
    return y * (2.0f - x * y); /* Newton's step doubles the 14 bits */
#else
    return 1.0f / x;
#endif
}

/* The square root of x >= 0, as precise. */
INLINE vec square_root(vec x) {
#if defined(__AVX512F__)
    vec y = (vec)_mm512_rsqrt14_ps((__m512)larger(x, all(FLT_MIN))); /* not infinite at 0 */
    vec root = x * y;
    return root + 0.5f * y * (x - root * root);
#elif defined(__AVX__)
    return (vec)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE__)
    return (vec)_mm_sqrt_ps((__m128)x);
#elif defined(__aarch64__)
    return (vec)vsqrtq_f32((float32x4_t)x);
#else
    for (int i = 0; i < LANES; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}

INLINE float sum(vec x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}

/* e^x, with a relative error of 2e-7. Below -87 the result is e^-87, close enough to zero; NaN stays NaN.
   x = n ln 2 + r, |r| <= ln(2) / 2, and a polynomial in r.
   Source: S. Moshier's Cephes library, expf. */
INLINE vec exponential(vec x) {
    x = smaller(all(88.0f), larger(all(-87.0f), x));
    const vec rounder = all(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
    vec shifted = x * 1.44269504088896341f + rounder;
    vec n = shifted - rounder;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return (vec)((ivec)y + (((ivec)shifted - (ivec)rounder) << 23));
}

/* tanh x, to a few units in the last place: odd polynomial over even one.
   Source: the rational approximation of Eigen and XLA (generic_fast_tanh_float). */
INLINE vec hyperbolic_tangent(vec x) {
    const float most = 7.90531110763549805f;
    x = smaller(all(most), larger(all(-most), x));
    vec s = x * x;
    vec p = all(-2.76076847742355e-16f);
    p = p * s + 2.00018790482477e-13f;
    p = p * s + -8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    vec q = all(1.19825839466702e-06f);
    q = q * s + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    return x * p * reciprocal(q);
}

INLINE vec logistic(vec x) { return 0.5f + 0.5f * hyperbolic_tangent(0.5f * x); }

#endif
