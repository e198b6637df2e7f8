/* A client's local steps: forward, back, and the optimizer.
 *
 * The numbers are those of fedgru/engines/jax/local_steps.py, except for rounding; names and the order of the gates
 * are those of fedgru/models/gru.py. Gradients of kernels and tables are not written to memory: the optimizer takes
 * each tile when its sum over all positions is done. Its slots need no zeros before the first step. A row of the
 * table needs no step before the first one that reads it: until then its gradient and moments are zero.
 */
#ifndef FEDGRU_LOCAL_STEPS_H
#define FEDGRU_LOCAL_STEPS_H

#include "candidate_head.h"
#include "cell.h"
#include "optimizer.h"
#include "threefry.h"

/* Draw dropout, scale the numbers, and list for each own row where it is read. */
static void prepare_inputs(Space *s, int64_t at, int64_t step) {
    const Job *job = s->job;
    const int64_t own = job->num_own, ids = job->num_ids, count = job->num_numbers, width = own + count;
    if (job->kept < 1.0f) { /* one mask per sequence and local step, as Keras draws it */
        Key key = fold_in((Key){{job->key[0], job->key[1]}}, (uint32_t)step);
        for (int64_t b = 0; b < job->batch; b++) {
            uint32_t first = (uint32_t)(b * (job->num_table + count));
            draw_kept(key, job->kept, first, own, s->scale + b * width);
            draw_kept(key, job->kept, first + (uint32_t)job->num_table, count,
                      s->scale + b * width + own);
        }
    } else {
        for (int64_t i = 0; i < job->batch * width; i++) s->scale[i] = 1.0f;
    }
    const int64_t step_from = at * job->seq_len * job->batch;
    const float *numbers = job->numbers + step_from * count;
    const int32_t *rows = job->rows + step_from * ids;
    memset(s->scaled, 0, (size_t)(s->P * s->N) * sizeof(float));
    memset(s->first_use, 0, (size_t)(own + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < s->length * job->batch; i++) {
        int64_t t = i / job->batch, b = i % job->batch;
        for (int64_t n = 0; n < count; n++)
            s->scaled[(t * s->B + b) * s->N + n] = numbers[i * count + n] * s->scale[b * width + own + n];
        for (int64_t f = 0; f < ids; f++)
            if (rows[i * ids + f] >= 0) s->first_use[rows[i * ids + f] + 1]++;
    }
    for (int64_t row = 0; row < own; row++) s->first_use[row + 1] += s->first_use[row];
    const int64_t total = s->first_use[own];
    for (int64_t i = s->length * job->batch - 1; i >= 0; i--) {
        int64_t t = i / job->batch, b = i % job->batch;
        for (int64_t f = 0; f < ids; f++) {
            int32_t row = rows[i * ids + f];
            if (row < 0) continue;
            Use use = {(int32_t)(t * s->B + b), s->scale[b * width + row]};
            s->uses[--s->first_use[row + 1]] = use;
        }
    } /* first_use[row + 1] was the end of a row's uses and is now their beginning */
    memmove(s->first_use, s->first_use + 1, (size_t)own * sizeof(int64_t));
    s->first_use[own] = total;
}

/* The share of the inputs in the gates of a block of units: numbers, bias, and rows of the table. */
static void read_inputs(const Space *s, int64_t at, int64_t u) {
    const Job *job = s->job;
    const int64_t own = job->num_own, ids = job->num_ids, width = own + job->num_numbers;
    const int32_t *rows = job->rows + at * job->seq_len * job->batch * ids;
    const float *table = s->rows.w + u * own * PULLED;
    read_numbers(s, u, s->length * s->B);
    for (int64_t t = 0; t < s->length; t++)
        for (int64_t b = 0; b < job->batch; b++) {
            float *inputs = s->inputs + (u * s->P + t * s->B + b) * KEPT;
            vec gates[GATES];
            for (int g = 0; g < GATES; g++) gates[g] = load(inputs + g * LANES);
            for (int64_t f = 0; f < ids; f++) {
                int32_t row = *rows++;
                if (row < 0) continue;
                float scale = s->scale[b * width + row];
                for (int g = 0; g < GATES; g++) gates[g] += scale * load(table + row * PULLED + g * LANES);
            }
            for (int g = 0; g < GATES; g++) store(inputs + g * LANES, gates[g]);
        }
}

static void transpose_head(const Space *s, int64_t c, int64_t k) {
    for (int j = 0; j < HEAD; j += LANES)
        transpose(s->head_kernel.w + c * s->H + k * HEAD + j, HEAD,
                  s->head_kernel_t + (k / HEAD * s->C + c + j) * HEAD + k % HEAD, HEAD);
}

/* Compute the scores of all positions and their loss, then replace the scores by the gradient of the mean loss. */
static void score(Space *s, Job *job, int64_t at) {
    const int64_t classes = job->num_classes, from = at * job->seq_len * job->batch;
    for (int64_t c = 0; c < s->C; c += HEAD)
        for (int64_t p = 0; p < s->length * s->B; p += ROWS) {
            vec sums[ROWS * 2];
            Left left = {hidden_at(s, 0, s->B + p), LANES, 1, (s->B + s->P) * LANES, LANES, s->U};
            multiply(ROWS, 2, left, s->head_kernel.w + c * s->H, HEAD, sums);
            for (int r = 0; r < ROWS; r++)
                for (int j = 0; j < 2; j++)
                    store(s->scores + (p + r) * s->C + c + j * LANES,
                          sums[r * 2 + j] + load(s->head_bias.w + c + j * LANES));
        }
    const float mean = share_of_target(s, from);
    float loss_sum = 0, num_correct = 0;
    vec d_prior_scale = {0};
    for (int64_t p = 0; p < s->length * s->B; p++) {
        int64_t t = p / s->B, b = p % s->B, i = from + t * job->batch + b;
        float *scores = s->scores + p * s->C;
        if (b >= job->batch || job->mask[i] == 0.0f) {
            memset(scores, 0, (size_t)s->C * sizeof(float));
            continue;
        }
        const float *log_prior = job->log_prior ? job->log_prior + i * classes : NULL;
        for (int64_t c = 0; log_prior && c < classes; c += LANES)
            store(scores + c, load(scores + c) + s->prior_scale.w[0] * load_some(log_prior + c, classes - c));
        int64_t first = 0; /* the first of the largest */
        for (int64_t c = 1; c < classes; c++)
            if (scores[c] > scores[first]) first = c;
        const float most = scores[first], at_target = scores[job->targets[i]];
        vec total = {0};
        for (int64_t c = 0; c < s->C; c += LANES) {
            vec e = choose(load(scores + c) <= NO_CLASS / 2, (vec){0}, exponential(load(scores + c) - most));
            store(scores + c, e);
            total += e;
        }
        const float denominator = sum(total), mask = job->mask[i];
        loss_sum += mask * (logf(denominator) - (at_target - most));
        num_correct += mask * (float)(first == job->targets[i]);
        for (int64_t c = 0; c < s->C; c += LANES)
            store(scores + c, load(scores + c) * (mask * mean / denominator));
        scores[job->targets[i]] -= mask * mean;
        for (int64_t c = 0; log_prior && c < classes; c += LANES)
            d_prior_scale += load(scores + c) * load_some(log_prior + c, classes - c);
    }
    job->loss_sum += loss_sum;
    job->num_correct += num_correct;
    s->d_prior_scale = sum(d_prior_scale);
    for (int64_t k = 0; k < s->H; k += HEAD)
        for (int64_t p = 0; p < s->length * s->B; p += ROWS) {
            vec sums[ROWS * 2];
            Left left = {s->scores + p * s->C, s->C, 1, 0, s->C, 1};
            multiply(ROWS, 2, left, s->head_kernel_t + k * s->C, HEAD, sums);
            for (int r = 0; r < ROWS; r++)
                for (int j = 0; j < 2; j++)
                    store(s->d_hidden + ((k / LANES + j) * s->P + p + r) * LANES, sums[r * 2 + j]);
        }
}

/* The recurrent kernel's gradient for a block of units, a sum over positions, and the optimizer's step. */
static void adjust_recurrent(const Space *s, int64_t u) {
    const int64_t count = s->length * s->B - s->zero;
    for (int64_t k = 0; k < s->H; k += UNITS) {
        vec sums[UNITS * GATES];
        Left left = {hidden_at(s, k / LANES, s->zero) + k % LANES, 1, LANES, 0, count, 1};
        multiply(UNITS, GATES, left, s->back + (u * s->P + s->zero) * KEPT, KEPT, sums);
        for (int i = 0; i < UNITS * GATES; i++)
            adjust(s, s->recurrent, (u * s->H + k) * PULLED + i * LANES, sums[i], s->fresh);
    }
}

/* The gradients of the block's other weights, each a sum over all positions, and the optimizer's step. */
static void adjust_block(const Space *s, int64_t u) {
    const Job *job = s->job;
    const int64_t positions = s->length * s->B, own = job->num_own;
    const float *back = s->back + u * s->P * KEPT, *by_inputs = back + LANES;
    vec sums[ROWS * GATES];
    for (int64_t n = 0; n < job->num_numbers; n += ROWS) {
        Left left = {s->scaled + n, 1, s->N, 0, positions, 1};
        multiply(ROWS, GATES, left, by_inputs, KEPT, sums);
        for (int i = 0; i < ROWS * GATES && n + i / GATES < job->num_numbers; i++)
            adjust(s, s->numbers, (u * job->num_numbers + n) * PULLED + i * LANES, sums[i], s->fresh);
    }
    for (int64_t row = 0; row < own; row++) {
        const Use *use = s->uses + s->first_use[row], *end = s->uses + s->first_use[row + 1];
        if (use == end && !s->touched[row] && !s->all_rows) continue;
        const int fresh = s->all_rows ? s->fresh : !s->touched[row];
        vec d[GATES] = {{0}};
        for (; use < end; use++)
            for (int g = 0; g < GATES; g++) d[g] += use->scale * load(by_inputs + use->position * KEPT + g * LANES);
        for (int g = 0; g < GATES; g++)
            adjust(s, s->rows, (u * own + row) * PULLED + g * LANES, d[g], fresh);
    }
    vec d[4] = {{0}};
    for (int64_t p = 0; p < positions; p++)
        for (int i = 0; i < 4; i++) d[i] += load(back + p * KEPT + i * LANES);
    for (int g = 0; g < GATES; g++) {
        adjust(s, s->bias, u * 2 * PULLED + g * LANES, d[1 + g], s->fresh);
        adjust(s, s->bias, (u * 2 + 1) * PULLED + g * LANES, d[g], s->fresh);
    }
}

static void adjust_head(Space *s) {
    const int64_t positions = s->length * s->B;
    for (int64_t c = 0; c < s->C; c += HEAD) {
        for (int64_t k = 0; k < s->H; k += UNITS) {
            vec sums[UNITS * 2];
            Left left = {hidden_at(s, k / LANES, s->B) + k % LANES, 1, LANES, 0, positions, 1};
            multiply(UNITS, 2, left, s->scores + c, s->C, sums);
            for (int i = 0; i < UNITS * 2; i++)
                adjust(s, s->head_kernel, c * s->H + k * HEAD + i * LANES, sums[i], s->fresh);
            if ((k + UNITS) % LANES == 0 && !s->last) transpose_head(s, c, k + UNITS - LANES);
        }
        for (int64_t j = c; j < c + HEAD; j += LANES) {
            vec d = {0};
            for (int64_t p = 0; p < positions; p++) d += load(s->scores + p * s->C + j);
            adjust(s, s->head_bias, j, d, s->fresh);
        }
    }
}

/* The number of time steps up to the last one with a target. */
static int64_t used_length(const Job *job, int64_t at) {
    const float *mask = job->mask + at * job->seq_len * job->batch;
    int64_t count = job->seq_len * job->batch;
    while (count && mask[count - 1] == 0.0f) count--;
    return (count + job->batch - 1) / job->batch;
}

/* `memory` has the size of space_bytes; its contents do not matter. */
static void run_local_steps(Job *job, char *memory) {
    Space space, *s = &space;
    lay_out(job, (char *)up((int64_t)memory, 64), s);
    start(s);
    for (int64_t u = 0; u < s->U; u++) lay_out_kernel(s, u);
    for (int64_t c = 0; c < s->C; c += HEAD)
        for (int64_t k = 0; k < s->H; k += LANES) transpose_head(s, c, k);
    if (job->head_dim) transpose_candidate_state(s);
    job->loss_sum = job->num_correct = 0;
    s->length = 0;
    for (int64_t step = 0; step < job->num_steps && !*job->stop; step++) {
        const int64_t at = step % job->steps_per_pass;
        for (int64_t u = 0; u < s->U; u++) { /* the state is carried on, but not into a new pass */
            size_t size = (size_t)(s->B * LANES) * sizeof(float);
            if (at == 0)
                memset(hidden_at(s, u, 0), 0, size);
            else
                memmove(hidden_at(s, u, 0), hidden_at(s, u, s->length * s->B), size);
            for (int64_t b = 0; job->resets && b < job->batch; b++)
                if (job->resets[at * job->batch + b]) store(hidden_at(s, u, b), (vec){0});
        }
        s->length = used_length(job, at);
        s->zero = at == 0 && s->length > 0 ? s->B : 0;
        s->fresh = step == 0;
        s->last = step == job->num_steps - 1;
        s->rate = job->client_lr * sqrtf(1.0f - powf(0.999f, (float)(step + 1))) /
                  (1.0f - powf(0.9f, (float)(step + 1)));
        prepare_inputs(s, at, step);
        for (int64_t u = 0; u < s->U; u++) read_inputs(s, at, u);
        for (int64_t t = 0; t < s->length; t++)
            for (int64_t u = 0; u < s->U; u++) advance(s, u, t);
        if (job->head_dim)
            score_candidates(s, job, at, step);
        else
            score(s, job, at);
        pull_back_last(s);
        for (int64_t t = s->length - 2; t >= 0; t--) go_back(s, t);
        for (int64_t u = 0; u < s->U; u++) {
            adjust_recurrent(s, u);
            if (!s->last) lay_out_kernel(s, u);
            adjust_block(s, u);
        }
        for (int64_t row = 0; row < job->num_own; row++)
            s->touched[row] |= s->first_use[row] < s->first_use[row + 1];
        if (job->head_dim)
            adjust_candidate_head(s, at);
        else
            adjust_head(s);
        if (job->log_prior || job->head_dim) adjust(s, s->prior_scale, 0, (vec){s->d_prior_scale}, s->fresh);
    }
    finish(s);
}

#endif
