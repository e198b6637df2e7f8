/* The head `candidates`: forward, loss, and the gradients of a local step.
 *
 * The numbers are those of fedgru/models/candidate_head.py, except for rounding; names are those of its docstring.
 * Units of the hidden layer are grouped in panels of three vectors. A row is one candidate of one position.
 */
#ifndef FEDGRU_CANDIDATE_HEAD_H
#define FEDGRU_CANDIDATE_HEAD_H

#include "optimizer.h"
#include "threefry.h"

#define NOBODY -5e8f /* log priors below are NO_CANDIDATE of fedgru/models/candidate_head.py */

/* What comes from the kinds: of_kinds[kind] = kinds[kind] @ of_kind. */
static void score_kinds(const Space *s) {
    const int64_t dim = s->job->kind_dim;
    for (int64_t kind = 0; kind < s->job->num_kinds; kind++)
        for (int64_t e = 0; e < s->E; e += LANES) {
            vec total = {0};
            for (int64_t d = 0; d < dim; d++) total += s->kinds.w[kind * dim + d] * load(s->of_kind.w + d * s->E + e);
            store(s->of_kinds + kind * s->E + e, total);
        }
}

/* What is the same for all candidates of a position: the state, the context and the bias. */
static void score_positions(const Space *s, int64_t from) {
    const Job *job = s->job;
    const int64_t count = job->num_context;
    memset(s->context, 0, (size_t)(s->P * s->G) * sizeof(float));
    for (int64_t i = 0; i < s->length * job->batch; i++)
        memcpy(s->context + (i / job->batch * s->B + i % job->batch) * s->G, job->context + (from + i) * count,
               (size_t)count * sizeof(float));
    for (int64_t e = 0; e < s->E; e += PANEL)
        for (int64_t p = 0; p < s->length * s->B; p += ROWS) {
            vec of_state[ROWS * 3], of_context[ROWS * 3];
            Left state = {hidden_at(s, 0, s->B + p), LANES, 1, (s->B + s->P) * LANES, LANES, s->U};
            multiply(ROWS, 3, state, s->candidate_state.w + e * s->H, PANEL, of_state);
            Left context = {s->context + p * s->G, s->G, 1, 0, count, 1};
            multiply(ROWS, 3, context, s->of_context.w + e * s->G, PANEL, of_context);
            for (int i = 0; i < ROWS * 3; i++)
                store(s->of_all + (e / PANEL * s->P + p + i / 3) * PANEL + i % 3 * LANES,
                      of_state[i] + of_context[i] + load(s->candidate_bias.w + e + i % 3 * LANES));
        }
}

/* The number of rows of a local step that begins at position `from`. */
static int64_t rows_of_step(const Space *s, int64_t from) {
    return s->job->first_row[from + s->length * s->job->batch] - s->job->first_row[from];
}

/* z = features @ input, for all rows of the step. */
static void score_features(const Space *s, int64_t from) {
    const Job *job = s->job;
    const int64_t width = job->num_features, count = rows_of_step(s, from);
    const float *features = job->features + job->first_row[from] * width;
    for (int64_t row = 0; row < count; row += ROWS) {
        const float *at = features + row * width;
        if (row + ROWS > count) { /* nothing is read behind the last row */
            memset(s->tail, 0, (size_t)(ROWS * width) * sizeof(float));
            at = memcpy(s->tail, at, (size_t)((count - row) * width) * sizeof(float));
        }
        for (int64_t e = 0; e < s->E; e += PANEL) {
            vec sums[ROWS * 3];
            Left left = {at, width, 1, 0, width, 1};
            multiply(ROWS, 3, left, s->candidate_input.w + e * width, PANEL, sums);
            for (int i = 0; i < ROWS * 3; i++)
                store(s->z + (e / PANEL * s->R + row + i / 3) * PANEL + i % 3 * LANES, sums[i]);
        }
    }
}

static float *z_at(const Space *s, int64_t row, int64_t e) {
    return s->z + (e / PANEL * s->R + row) * PANEL + e % PANEL;
}

static float *all_at(const Space *s, float *of_all, int64_t p, int64_t e) {
    return of_all + (e / PANEL * s->P + p) * PANEL + e % PANEL;
}

/* A row's logit is the returned number and the sum of `summands`. z becomes the input of the unit's activation
 * z * logistic(z), whose second factor is kept in `shares`. */
static float score_row(const Space *s, int64_t p, int64_t row, int64_t at, float *shares, float *summands) {
    const Job *job = s->job;
    const int32_t kind = job->kinds[at];
    const float *features = job->features + at * job->num_features, *of_kind = s->of_kinds + kind * s->E;
    vec total = {0};
    for (int64_t e = 0; e < s->E; e += LANES) {
        vec z = load(z_at(s, row, e)) + load(of_kind + e) + load(all_at(s, s->of_all, p, e));
        vec share = logistic(z);
        store(z_at(s, row, e), z);
        store(shares + e, share);
        total += z * share * load(s->scaled_output + e);
    }
    for (int64_t f = 0; f < job->num_features; f += LANES)
        total += load_some(features + f, job->num_features - f) * load(s->linear.w + f);
    store(summands, total);
    return s->kind_bias.w[kind] + s->prior_scale.w[0] * job->candidate_log_prior[at];
}

/* Compute the logits of the rows of one position. NO_CLASS are those of padding to whole vectors, and that of somewhere
 * new where nowhere is new. */
static void score_rows(const Space *s, int64_t p, int64_t row, int64_t at, int64_t num) {
    for (int64_t c = 0; c < num; c++)
        s->logits[c] = score_row(s, p, row + c, at + c, s->shares + c * s->E, s->summands + c * LANES);
    for (int64_t c = num; c < up(num, LANES); c++) s->logits[c] = NO_CLASS;
    for (int64_t c = 0; c < num; c += LANES) { /* the sums of several rows at once */
        float turned[LANES * LANES];
        vec total = load(s->logits + c);
        transpose(s->summands + c * LANES, LANES, turned, LANES);
        for (int i = 0; i < LANES; i++) total += load(turned + i * LANES);
        store(s->logits + c, c + LANES <= num ? total : choose(load(s->logits + c) <= NO_CLASS, all(NO_CLASS), total));
    }
    if (s->job->candidate_log_prior[at] < NOBODY) s->logits[0] = NO_CLASS;
}

/* Back through one row; d is the gradient by its logit. z becomes its own gradient. */
static void pull_row(const Space *s, int64_t p, int64_t row, int64_t at, const float *shares, float d) {
    const Job *job = s->job;
    const int32_t kind = job->kinds[at];
    const float *features = job->features + at * job->num_features;
    float *d_kind = s->d_of_kinds + kind * s->E;
    for (int64_t e = 0; e < s->E; e += LANES) {
        vec z = load(z_at(s, row, e)), share = load(shares + e), scaled = load(s->scaled_output + e);
        vec dz = d * scaled * share * (1.0f + z * (1.0f - share));
        store(s->d_output + e, load(s->d_output + e) + d * load(s->unit_scale + e) * z * share);
        store(z_at(s, row, e), dz);
        store(all_at(s, s->d_all, p, e), load(all_at(s, s->d_all, p, e)) + dz);
        store(d_kind + e, load(d_kind + e) + dz);
    }
    for (int64_t f = 0; f < job->num_features; f += LANES)
        store(s->d_linear + f, load(s->d_linear + f) + d * load_some(features + f, job->num_features - f));
    s->d_kind_bias[kind] += d;
}

/* Compute the scores of all candidates, their loss, and the gradients by what the scores are made of. */
static void score_candidates(Space *s, Job *job, int64_t at, int64_t step) {
    const int64_t from = at * job->seq_len * job->batch;
    Key key = fold_in(fold_in((Key){{job->key[0], job->key[1]}}, (uint32_t)step), 2);
    score_kinds(s);
    score_positions(s, from);
    score_features(s, from);
    memset(s->d_all, 0, (size_t)(s->P * s->E) * sizeof(float));
    memset(s->d_of_kinds, 0, (size_t)(job->num_kinds * s->E) * sizeof(float));
    memset(s->d_kind_bias, 0, (size_t)up(job->num_kinds, LANES) * sizeof(float));
    memset(s->d_output, 0, (size_t)s->E * sizeof(float));
    memset(s->d_linear, 0, (size_t)up(job->num_features, LANES) * sizeof(float));
    float loss_sum = 0, num_correct = 0, d_prior_scale = 0;
    const float mean = share_of_target(s, from);
    for (int64_t i = 0; i < s->length * job->batch; i++) {
        const int64_t p = i / job->batch * s->B + i % job->batch, first = job->first_row[from + i];
        const int64_t row = first - job->first_row[from], num = job->first_row[from + i + 1] - first;
        const float *log_prior = job->candidate_log_prior + first, mask = job->mask[from + i];
        const int32_t target = job->targets[from + i];
        if (mask == 0.0f) continue; /* it has no rows */
        for (int64_t e = 0; e < s->E; e += LANES) store(s->unit_scale + e, all(1.0f));
        if (job->head_kept < 1.0f)
            draw_kept(key, job->head_kept, (uint32_t)(i * job->head_dim), job->head_dim, s->unit_scale);
        for (int64_t e = 0; e < s->E; e += LANES)
            store(s->scaled_output + e, load(s->unit_scale + e) * load(s->output.w + e));
        score_rows(s, p, row, first, num);
        float most = s->logits[0], best = s->logits[0] + job->log_top[from + i];
        int64_t likeliest = 0; /* the first of the largest */
        for (int64_t c = 1; c < num; c++) {
            if (s->logits[c] > most) most = s->logits[c];
            if (s->logits[c] > best) best = s->logits[c], likeliest = c;
        }
        vec total = {0};
        for (int64_t c = 0; c < num; c += LANES) {
            vec e = exponential(load(s->logits + c) - most);
            store(s->probs + c, e);
            total += e;
        }
        const float denominator = sum(total);
        const float log_prob = s->logits[target] - most - logf(denominator) + job->log_within[from + i];
        loss_sum -= mask * log_prob;
        if (likeliest == target) num_correct += mask * (target ? 1.0f : job->is_top[from + i]);
        for (int64_t c = 0; c < num; c++) {
            float d = s->probs[c] / denominator - (float)(c == target);
            d *= mask * mean;
            d_prior_scale += d * log_prior[c];
            pull_row(s, p, row + c, first + c, s->shares + c * s->E, d);
        }
    }
    job->loss_sum += loss_sum;
    job->num_correct += num_correct;
    s->d_prior_scale = d_prior_scale;
    for (int64_t k = 0; k < s->H; k += HEAD)
        for (int64_t p = 0; p < s->length * s->B; p += ROWS) {
            vec sums[ROWS * 2];
            Left left = {s->d_all + p * PANEL, PANEL, 1, s->P * PANEL, PANEL, s->E / PANEL};
            multiply(ROWS, 2, left, s->candidate_state_t + k * s->E, HEAD, sums);
            for (int r = 0; r < ROWS; r++)
                for (int j = 0; j < 2; j++)
                    store(s->d_hidden + ((k / LANES + j) * s->P + p + r) * LANES, sums[r * 2 + j]);
        }
}

/* Copy the state's kernel to the layout that the gradient by the state is computed with. */
static void transpose_candidate_state(const Space *s) {
    for (int64_t k = 0; k < s->H; k++)
        for (int64_t e = 0; e < s->E; e++)
            s->candidate_state_t[(k / HEAD * s->E + e) * HEAD + k % HEAD] =
                s->candidate_state.w[(e / PANEL * s->H + k) * PANEL + e % PANEL];
}

/* An optimizer's step for `size` weights, padded to whole vectors, from gradients in memory. */
static void adjust_all(const Space *s, Slots slots, const float *gradient, int64_t size) {
    for (int64_t i = 0; i < size; i += LANES) adjust(s, slots, i, load(gradient + i), s->fresh);
}

/* kinds and of_kind: their product's gradient is d_of_kinds. */
static void adjust_kinds(const Space *s) {
    const int64_t dim = s->job->kind_dim, num = s->job->num_kinds, size = up(num * dim, LANES);
    memset(s->d_kinds, 0, (size_t)size * sizeof(float));
    for (int64_t kind = 0; kind < num; kind++)
        for (int64_t d = 0; d < dim; d++) {
            vec total = {0};
            for (int64_t e = 0; e < s->E; e += LANES)
                total += load(s->d_of_kinds + kind * s->E + e) * load(s->of_kind.w + d * s->E + e);
            s->d_kinds[kind * dim + d] = sum(total);
        }
    for (int64_t d = 0; d < dim; d++)
        for (int64_t e = 0; e < s->E; e += LANES) {
            vec total = {0};
            for (int64_t kind = 0; kind < num; kind++)
                total += s->kinds.w[kind * dim + d] * load(s->d_of_kinds + kind * s->E + e);
            adjust(s, s->of_kind, d * s->E + e, total, s->fresh);
        }
    adjust_all(s, s->kinds, s->d_kinds, size);
}

/* The gradients of the head's weights, each a sum over all rows or positions, and the optimizer's step. */
static void adjust_candidate_head(const Space *s, int64_t at) {
    const Job *job = s->job;
    const int64_t positions = s->length * s->B, width = job->num_features;
    const int64_t from = at * job->seq_len * job->batch, rows = rows_of_step(s, from);
    const float *features = job->features + job->first_row[from] * width;
    for (int64_t e = 0; e < s->E; e += PANEL) {
        const float *dz = s->z + e / PANEL * s->R * PANEL, *d_all = s->d_all + e / PANEL * s->P * PANEL;
        for (int64_t f = 0; f < width; f += ROWS) {
            vec sums[ROWS * 3];
            Left left = {features + f, 1, width, 0, rows, 1};
            multiply(ROWS, 3, left, dz, PANEL, sums);
            for (int i = 0; i < ROWS * 3; i++)
                adjust(s, s->candidate_input, e * width + f * PANEL + i * LANES, sums[i], s->fresh);
        }
        for (int64_t k = 0; k < s->H; k += UNITS) {
            vec sums[UNITS * 3];
            Left left = {hidden_at(s, k / LANES, s->B) + k % LANES, 1, LANES, 0, positions, 1};
            multiply(UNITS, 3, left, d_all, PANEL, sums);
            for (int i = 0; i < UNITS * 3; i++)
                adjust(s, s->candidate_state, e * s->H + k * PANEL + i * LANES, sums[i], s->fresh);
        }
        for (int64_t g = 0; g < s->G; g += ROWS) {
            vec sums[ROWS * 3];
            Left left = {s->context + g, 1, s->G, 0, positions, 1};
            multiply(ROWS, 3, left, d_all, PANEL, sums);
            for (int i = 0; i < ROWS * 3; i++)
                adjust(s, s->of_context, e * s->G + g * PANEL + i * LANES, sums[i], s->fresh);
        }
        for (int64_t j = 0; j < PANEL; j += LANES) {
            vec d = {0};
            for (int64_t p = 0; p < positions; p++) d += load(d_all + p * PANEL + j);
            adjust(s, s->candidate_bias, e + j, d, s->fresh);
        }
    }
    adjust_kinds(s);
    adjust_all(s, s->output, s->d_output, s->E);
    adjust_all(s, s->linear, s->d_linear, width);
    adjust_all(s, s->kind_bias, s->d_kind_bias, job->num_kinds);
    if (!s->last) transpose_candidate_state(s);
}

#endif
