/* The GRU forward and back through one time step, by blocks of units; products in float32 vectors.
 *
 * A tile of a product holds whole gates of some units, so that elementwise work happens while they are in
 * registers. */
#ifndef FEDGRU_CELL_H
#define FEDGRU_CELL_H

#include "space.h"

/* The share of the numbers at some positions in the gates of a block of units, and the bias. */
static void read_numbers(const Space *s, int64_t u, int64_t num_positions) {
    const int64_t count = s->job->num_numbers;
    for (int64_t p = 0; p < num_positions; p += ROWS) {
        vec sums[ROWS * GATES];
        Left left = {s->scaled + p * s->N, s->N, 1, 0, count, 1};
        multiply(ROWS, GATES, left, s->numbers.w + u * count * PULLED, PULLED, sums);
        for (int i = 0; i < ROWS * GATES; i++)
            store(s->inputs + (u * s->P + p + i / GATES) * KEPT + i % GATES * LANES,
                  sums[i] + load(s->bias.w + u * 2 * PULLED + i % GATES * LANES));
    }
}

/* Copy the recurrent kernel's columns of a block of units to the layout that `go_back` reads. */
static void lay_out_kernel(const Space *s, int64_t u) {
    for (int64_t k = 0; k < s->H; k += LANES)
        for (int64_t j = u * PULLED; j < (u + 1) * PULLED; j += LANES)
            transpose(s->recurrent.w + (u * s->H + k) * PULLED + j % PULLED, PULLED,
                      s->recurrent_t + (k / HEAD * s->U * PULLED + j) * HEAD + k % HEAD, HEAD);
}

/* The gates of some units of one sequence, given the state's share in them, and the next state. */
INLINE void pass_gates(const Space *s, int64_t u, int64_t t, int64_t b, vec candidate_h, vec update, vec reset) {
    const float *bias = s->bias.w + (u * 2 + 1) * PULLED;
    float *kept = s->kept + (u * s->P + t * s->B + b) * KEPT; /* the inputs' share, until it is overwritten here */
    candidate_h += load(bias);
    update = logistic(load(kept) + update + load(bias + LANES));
    reset = logistic(load(kept + LANES) + reset + load(bias + 2 * LANES));
    vec candidate = hyperbolic_tangent(load(kept + 2 * LANES) + reset * candidate_h);
    vec before = load(hidden_at(s, u, t * s->B + b));
    store(hidden_at(s, u, (t + 1) * s->B + b), update * before + (1.0f - update) * candidate);
    store(kept, update);
    store(kept + LANES, reset);
    store(kept + 2 * LANES, candidate);
    store(kept + 3 * LANES, candidate_h);
}

/* Compute the state of a block of units after time step t. */
static void advance(const Space *s, int64_t u, int64_t t) {
    const int64_t blocks = t * s->B < s->zero ? 0 : s->U;
    for (int64_t b = 0; b < s->B; b += ROWS) {
        vec pulled[ROWS * GATES];
        Left left = {hidden_at(s, 0, t * s->B + b), LANES, 1, (s->B + s->P) * LANES, LANES, blocks};
        multiply(ROWS, GATES, left, s->recurrent.w + u * s->H * PULLED, PULLED, pulled);
        for (int r = 0; r < ROWS; r++)
            pass_gates(s, u, t, b + r, pulled[r * GATES], pulled[r * GATES + 1], pulled[r * GATES + 2]);
    }
}

/* Back through time step t of some units of one sequence; d is the gradient by the state after it. */
INLINE void pull_back(const Space *s, int64_t u, int64_t t, int64_t b, vec d) {
    const int64_t p = t * s->B + b;
    const float *kept = s->kept + (u * s->P + p) * KEPT;
    float *back = s->back + (u * s->P + p) * KEPT;
    vec update = load(kept), reset = load(kept + LANES);
    vec candidate = load(kept + 2 * LANES), candidate_h = load(kept + 3 * LANES);
    vec d_candidate = d * (1.0f - update) * (1.0f - candidate * candidate);
    store(back, d_candidate * reset);
    store(back + LANES, d * (load(hidden_at(s, u, p)) - candidate) * update * (1.0f - update));
    store(back + 2 * LANES, d_candidate * candidate_h * reset * (1.0f - reset));
    store(back + 3 * LANES, d_candidate);
    store(s->carried + (u * s->B + b) * LANES, d * update);
}

/* The same for a step that is not the last; d is the gradient that comes through the next step's product. */
INLINE void pull_back_further(const Space *s, int64_t u, int64_t t, int64_t b, vec d) {
    d += load(s->d_hidden + (u * s->P + t * s->B + b) * LANES);
    d += load(s->carried + (u * s->B + b) * LANES);
    pull_back(s, u, t, b, d);
}

/* Back through the last time step. Backpropagation is truncated: no gradient comes from later steps. */
static void pull_back_last(const Space *s) {
    const int64_t t = s->length - 1;
    for (int64_t u = 0; t >= 0 && u < s->U; u++)
        for (int64_t b = 0; b < s->B; b++)
            pull_back(s, u, t, b, load(s->d_hidden + (u * s->P + t * s->B + b) * LANES));
}

/* Back through time step t, which is not the last. */
static void go_back(const Space *s, int64_t t) {
    for (int64_t k = 0; k < s->H; k += HEAD)
        for (int64_t b = 0; b < s->B; b += ROWS) {
            vec sums[ROWS * 2];
            Left left = {s->back + ((t + 1) * s->B + b) * KEPT, KEPT, 1, s->P * KEPT, PULLED, s->U};
            multiply(ROWS, 2, left, s->recurrent_t + k * s->U * PULLED, HEAD, sums);
            for (int r = 0; r < ROWS; r++)
                for (int j = 0; j < 2; j++) pull_back_further(s, k / LANES + j, t, b + r, sums[r * 2 + j]);
        }
}

#endif
