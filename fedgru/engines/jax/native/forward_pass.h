/* The cell over many check-ins, without backpropagation: for evaluation. */
#ifndef FEDGRU_WALK_H
#define FEDGRU_WALK_H

#include "cell.h"

typedef struct {
    int64_t num_rows, length, num_ids, num_numbers, hidden_dim;
    const int32_t *rows;     /* [length, num_rows, num_ids], rows of weights.rows or -1 */
    const float *numbers;    /* [length, num_rows, num_numbers] */
    const uint8_t *starts;   /* [length, num_rows], 1 where a new sequence begins: the state before is zero */
    const int64_t *places;   /* [length, num_rows], where in `hidden` the state after goes; -1 is nowhere */
    Weights weights;         /* the head is not read */
    float *state;            /* [num_rows, hidden_dim], before the first step, then after the last */
    float *hidden;           /* [..., hidden_dim] */
} Forward;

/* A forward pass repeats the forward half of a local step of one time step. */
static Job job_of(const Forward *forward) {
    return (Job){.batch = forward->num_rows, .seq_len = 1, .num_ids = forward->num_ids,
                 .num_numbers = forward->num_numbers, .hidden_dim = forward->hidden_dim, .weights = forward->weights};
}

/* As `read_inputs`, at one time step, from the whole table, whose rows are contiguous. */
static void read_inputs_of_forward(const Space *s, const Forward *forward, int64_t t, int64_t u) {
    const int64_t hidden = forward->hidden_dim, left = hidden - u * LANES;
    const int32_t *rows = forward->rows + t * forward->num_rows * forward->num_ids;
    read_numbers(s, u, s->B);
    for (int64_t b = 0; left > 0 && b < forward->num_rows; b++) {
        float *inputs = s->inputs + (u * s->P + b) * KEPT;
        vec gates[GATES];
        for (int g = 0; g < GATES; g++) gates[g] = load(inputs + g * LANES);
        for (int64_t f = 0; f < forward->num_ids; f++) {
            int32_t row = *rows++;
            for (int g = 0; row >= 0 && g < GATES; g++)
                gates[g] += load_some(forward->weights.rows + (row * GATES + g) * hidden + u * LANES, left);
        }
        for (int g = 0; g < GATES; g++) store(inputs + g * LANES, gates[g]);
    }
}

static void take_state(const Space *s, const float *from, int64_t row, int64_t b) {
    const int64_t hidden = s->job->hidden_dim;
    for (int64_t at = 0; at < hidden; at += LANES)
        store(hidden_at(s, at / LANES, row), load_some(from + b * hidden + at, hidden - at));
}

static void give_state(const Space *s, float *to, int64_t row, int64_t b) {
    const int64_t hidden = s->job->hidden_dim;
    for (int64_t at = 0; at < hidden; at += LANES)
        store_some(to + b * hidden + at, load(hidden_at(s, at / LANES, row)), hidden - at);
}

static void run_forward(const Forward *forward, char *memory) {
    const Job job = job_of(forward);
    Space space, *s = &space;
    lay_out(&job, (char *)up((int64_t)memory, 64), s);
    start(s);
    s->zero = 0;
    memset(s->scaled, 0, (size_t)(s->B * s->N) * sizeof(float)); /* of padded rows too */
    memset(s->hidden, 0, (size_t)(s->U * 2 * s->B * LANES) * sizeof(float));
    for (int64_t b = 0; b < forward->num_rows; b++) take_state(s, forward->state, b, b);
    for (int64_t t = 0; t < forward->length; t++) {
        for (int64_t b = 0; b < forward->num_rows; b++)
            for (int64_t u = 0; forward->starts[t * forward->num_rows + b] && u < s->U; u++)
                store(hidden_at(s, u, b), (vec){0});
        for (int64_t b = 0; b < forward->num_rows; b++)
            memcpy(s->scaled + b * s->N, forward->numbers + (t * forward->num_rows + b) * forward->num_numbers,
                   (size_t)forward->num_numbers * sizeof(float));
        for (int64_t u = 0; u < s->U; u++) {
            read_inputs_of_forward(s, forward, t, u);
            advance(s, u, 0);
        }
        for (int64_t b = 0; b < forward->num_rows; b++) {
            int64_t place = forward->places[t * forward->num_rows + b];
            if (place >= 0) give_state(s, forward->hidden, s->B + b, place);
        }
        for (int64_t u = 0; u < s->U; u++)
            memcpy(hidden_at(s, u, 0), hidden_at(s, u, s->B), (size_t)(s->B * LANES) * sizeof(float));
    }
    for (int64_t b = 0; b < forward->num_rows; b++) give_state(s, forward->state, b, b);
}

#endif
