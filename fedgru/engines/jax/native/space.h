/* The arguments of a call, and the layout of its arrays in the memory that it is given.
 *
 * Hidden units are grouped in blocks of one vector. The numbers of a block are contiguous, its three gates
 * side by side. Sizes are padded: hidden units and classes to a multiple of two vectors, the batch to one of
 * ROWS. Padded units have zero weights and stay zero, padded classes have a bias of -1e30, so their
 * probability is zero; neither has a gradient. Padded sequences have no targets.
 */
#ifndef FEDGRU_SPACE_H
#define FEDGRU_SPACE_H

#include "products.h"

#define GATES 3
#define PULLED (GATES * LANES) /* the state's share in the gates of a block: candidate, update, reset */
#define KEPT (4 * LANES) /* what a block keeps of a position for backpropagation, and later its gradients */
#define HEAD (2 * LANES) /* columns of a panel of the head's kernel */
#define PANEL (3 * LANES) /* columns of a panel of the head `candidates` */
#define NO_CLASS -1e30f

typedef struct {
    float *rows, *numbers, *recurrent, *bias, *head_kernel, *head_bias, *prior_scale;
    float *candidate_input, *candidate_state, *candidate_of_context, *candidate_kinds, *candidate_of_kind;
    float *candidate_bias, *candidate_output, *candidate_linear, *candidate_kind_bias;
} Weights; /* of either the dense head or the head `candidates`; the other's are null */

typedef struct {
    int64_t batch, seq_len, num_ids, num_numbers, hidden_dim, num_classes;
    int64_t num_table;                         /* rows of the table that dropout is drawn for */
    int64_t num_own, steps_per_pass, num_steps;
    int64_t adam;                              /* 1, or 0 for plain gradient descent */
    float client_lr, kept;                     /* kept: the share of inputs that dropout keeps */
    float prox_mu;                             /* weight of FedProx's proximal term; 0 leaves it out */
    uint32_t key[2];
    const int32_t *row_ids;                    /* [num_own], rows of weights.rows */
    const int32_t *rows;                       /* [steps, seq_len, batch, num_ids], own rows or -1 */
    const float *numbers;                      /* [steps, seq_len, batch, num_numbers] */
    const int32_t *targets;                    /* [steps, seq_len, batch] */
    const float *mask;                         /* [steps, seq_len, batch] */
    const float *log_prior;                    /* [steps, seq_len, batch, num_classes], or null */
    const uint8_t *resets;                     /* [steps, batch], rows whose state is zero before a step; or null */
    int64_t head_dim;                          /* of the head `candidates`; 0: the head is dense */
    int64_t num_features, num_context, num_kinds, kind_dim; /* features: a multiple of ROWS */
    int64_t most_candidates, most_rows;        /* of one position, and of one local step */
    float head_kept;                           /* the share of head units that dropout keeps */
    const int64_t *first_row;                  /* [steps * seq_len * batch + 1], of each position's candidates */
    const float *features;                     /* [num_rows, num_features], one row for each candidate */
    const float *candidate_log_prior;          /* [num_rows] */
    const int32_t *kinds;                      /* [num_rows] */
    const float *context;                      /* [steps, seq_len, batch, num_context] */
    const float *log_within, *log_top, *is_top; /* [steps, seq_len, batch] */
    Weights weights, update;                   /* update.rows: [num_own, 3 * hidden_dim] */
    Weights offset;                            /* added to each gradient, rows as those of weights; or nulls */
    Weights anchor;                            /* what the proximal term pulls to, likewise; nulls: the start */
    const volatile int32_t *stop;              /* read before each local step: if it is not 0, the work ends */
    double loss_sum, num_correct;
    int32_t done;                              /* for the queue of queue.h */
} Job;

typedef struct {
    float *w, *m, *v;
    float *received; /* w before the first step, or the anchor; null without a proximal term */
    float *offset;   /* null for none */
    int64_t size;
} Slots;

typedef struct {
    int32_t position;
    float scale;
} Use;

/* A job's sizes, its arrays, and where it is. Shapes: U blocks of units, P = positions = seq_len * B. */
typedef struct {
    const Job *job;
    int64_t U, H, B, P, C, N;  /* padded: blocks, hidden_dim, batch, positions, classes, numbers */
    int64_t length;            /* time steps of this local step that are not all padding */
    int64_t zero;              /* number of first positions before which the state is zero */
    float rate, d_prior_scale;
    int fresh;                 /* in the first local step: slots hold nothing yet */
    int last;                  /* in the last one: slots and transposed kernels are not read again */
    int all_rows;              /* rows move even where no input names them */
    Slots recurrent;           /* [U, H, PULLED] */
    Slots rows;                /* [U, num_own, PULLED], gates in order */
    Slots numbers;             /* [U, num_numbers, PULLED] */
    Slots bias;                /* [U, 2, PULLED]: of the inputs, gates in order; of the state, as pulled */
    Slots head_kernel;         /* [C / HEAD, H, HEAD] */
    Slots head_bias;           /* [C] */
    Slots prior_scale;         /* [1] */
    int64_t E, F, G, R;        /* of the head `candidates`, padded: units, features, context; rows */
    Slots candidate_input;     /* [E / PANEL, num_features, PANEL] */
    Slots candidate_state;     /* [E / PANEL, H, PANEL] */
    Slots of_context;          /* [E / PANEL, G, PANEL] */
    Slots kinds;               /* [num_kinds, kind_dim] */
    Slots of_kind;             /* [kind_dim, E] */
    Slots candidate_bias;      /* [E] */
    Slots output;              /* [E] */
    Slots linear;              /* [F] */
    Slots kind_bias;           /* [num_kinds] */
    float *candidate_state_t;  /* [H / HEAD, E, HEAD] */
    float *context;            /* [P, G] */
    float *of_all, *d_all;     /* [E / PANEL, P, PANEL]: what all candidates of a position share, its gradient */
    float *of_kinds, *d_of_kinds; /* [num_kinds, E] */
    float *d_kinds;            /* [num_kinds, kind_dim] */
    float *z;                  /* [E / PANEL, R, PANEL]: the units' inputs, then their gradients */
    float *tail;               /* [ROWS, num_features] */
    float *logits, *probs;     /* [candidates] of one position */
    float *summands, *shares;  /* [candidates, LANES] and [candidates, E] of one position */
    float *unit_scale, *scaled_output; /* [E] of one position: dropout's factors, and the output's weights times them */
    float *d_output, *d_linear, *d_kind_bias;
    float *recurrent_t;        /* [H / HEAD, U * PULLED, HEAD] */
    float *head_kernel_t;      /* [H / HEAD, C, HEAD] */
    float *hidden;             /* [U, B + P, LANES]: the state before step t at t * B */
    float *inputs;             /* [U, P, KEPT]: their share in update, reset, candidate */
    float *kept;               /* later, in the same memory: update, reset, candidate, the state's share in it */
    float *back;               /* last, in the same memory: gradients by the state's shares, by the candidate's input */
    float *carried;            /* [U, B, LANES]: the gradient by the state that does not come through a product */
    float *scores;             /* [P, C], then their gradients */
    float *d_hidden;           /* [U, P, LANES] */
    float *scaled;             /* [P, N], numbers after dropout */
    float *scale;              /* [batch, num_own + num_numbers], dropout's factors */
    char *touched;             /* [num_own] */
    int64_t *first_use;        /* [num_own + 1] */
    Use *uses;                 /* [P * num_ids], by row */
} Space;

static int64_t up(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

static void *carve(intptr_t *at, int64_t size_bytes) {
    void *here = (void *)*at;
    *at += up(size_bytes, 64) + 64; /* the extra line puts equal places of arrays in different cache sets */
    return here;
}

static float *floats(intptr_t *at, int64_t size) { return carve(at, size * (int64_t)sizeof(float)); }

static Slots slots(intptr_t *at, const Job *job, int64_t size) {
    Slots s = {floats(at, size), NULL, NULL, NULL, NULL, size};
    if (job->adam) s.m = floats(at, size), s.v = floats(at, size);
    if (job->prox_mu > 0.0f) s.received = floats(at, size);
    if (job->offset.recurrent) s.offset = floats(at, size);
    return s;
}

/* Place what the head `candidates` needs. */
static void lay_out_candidates(const Job *job, intptr_t *at, Space *s) {
    s->E = up(job->head_dim, PANEL);
    s->F = up(job->num_features, LANES);
    s->G = up(job->num_context, ROWS);
    s->R = up(job->most_rows, ROWS);
    const int64_t kinds = up(job->num_kinds * job->kind_dim, LANES), num_kinds = up(job->num_kinds, LANES);
    s->candidate_input = slots(at, job, job->num_features * s->E);
    s->candidate_state = slots(at, job, s->H * s->E);
    s->of_context = slots(at, job, s->G * s->E);
    s->kinds = slots(at, job, kinds);
    s->of_kind = slots(at, job, job->kind_dim * s->E);
    s->candidate_bias = slots(at, job, s->E);
    s->output = slots(at, job, s->E);
    s->linear = slots(at, job, s->F);
    s->kind_bias = slots(at, job, num_kinds);
    s->candidate_state_t = floats(at, s->H * s->E);
    s->context = floats(at, s->P * s->G);
    s->of_all = floats(at, s->P * s->E);
    s->d_all = floats(at, s->P * s->E);
    s->of_kinds = floats(at, job->num_kinds * s->E);
    s->d_of_kinds = floats(at, job->num_kinds * s->E);
    s->d_kinds = floats(at, kinds);
    s->z = floats(at, s->R * s->E);
    s->tail = floats(at, ROWS * job->num_features);
    const int64_t most = up(job->most_candidates, LANES);
    s->logits = floats(at, most);
    s->probs = floats(at, most);
    s->summands = floats(at, most * LANES);
    s->shares = floats(at, job->most_candidates * s->E);
    s->unit_scale = floats(at, s->E);
    s->scaled_output = floats(at, s->E);
    s->d_output = floats(at, s->E);
    s->d_linear = floats(at, s->F);
    s->d_kind_bias = floats(at, num_kinds);
}

/* Place the arrays of s in `memory`; return the bytes that they take. */
static int64_t lay_out(const Job *job, char *memory, Space *s) {
    intptr_t at = (intptr_t)memory;
    s->job = job;
    s->H = up(job->hidden_dim, HEAD);
    s->U = s->H / LANES;
    s->B = up(job->batch, ROWS);
    s->P = job->seq_len * s->B;
    s->C = up(job->num_classes, HEAD);
    s->N = up(job->num_numbers, ROWS);
    s->recurrent = slots(&at, job, s->U * s->H * PULLED);
    s->rows = slots(&at, job, s->U * job->num_own * PULLED);
    s->numbers = slots(&at, job, s->U * job->num_numbers * PULLED);
    s->bias = slots(&at, job, s->U * 2 * PULLED);
    s->head_kernel = slots(&at, job, s->C * s->H);
    s->head_bias = slots(&at, job, s->C);
    s->prior_scale = slots(&at, job, LANES);
    if (job->head_dim) lay_out_candidates(job, &at, s);
    s->recurrent_t = floats(&at, s->U * s->H * PULLED);
    s->head_kernel_t = floats(&at, s->C * s->H);
    s->hidden = floats(&at, s->U * (s->B + s->P) * LANES);
    s->inputs = s->kept = s->back = floats(&at, s->U * s->P * KEPT);
    s->carried = floats(&at, s->U * s->B * LANES);
    s->scores = floats(&at, s->P * s->C);
    s->d_hidden = floats(&at, s->U * s->P * LANES);
    s->scaled = floats(&at, s->P * s->N);
    s->scale = floats(&at, job->batch * (job->num_own + job->num_numbers));
    s->touched = carve(&at, job->num_own);
    s->first_use = carve(&at, (job->num_own + 1) * (int64_t)sizeof(int64_t));
    s->uses = carve(&at, s->P * job->num_ids * (int64_t)sizeof(Use));
    return at - (intptr_t)memory;
}

static int64_t space_bytes(const Job *job) {
    Space s;
    return lay_out(job, NULL, &s) + 64;
}

/* ---- from the weights' own layout to blocks of units, and back ------------------------------------ */

static const int AS_GATES[GATES] = {0, 1, 2}, AS_PULLED[GATES] = {2, 0, 1};

/* Gates of the units of block u in one row of a kernel, [3 * hidden_dim] -> [PULLED]. */
static void gather_block(const Job *job, const float *row, const int *order, int64_t u, float *to) {
    int64_t left = job->hidden_dim - u * LANES;
    for (int g = 0; g < GATES; g++) {
        const float *from = row + order[g] * job->hidden_dim + u * LANES;
        store(to + g * LANES, left > 0 ? load_some(from, left) : (vec){0});
    }
}

/* Write to `to` what `gather_block` took, minus the row: its change. */
static void scatter_block(const Job *job, const float *block, const float *row, const int *order, int64_t u,
                          float *to) {
    int64_t left = job->hidden_dim - u * LANES;
    for (int g = 0; left > 0 && g < GATES; g++) {
        int64_t at = order[g] * job->hidden_dim + u * LANES;
        store_some(to + at, load(block + g * LANES) - load_some(row + at, left), left);
    }
}

static void keep_received(Slots s) {
    if (s.received) memcpy(s.received, s.w, (size_t)s.size * sizeof(float));
}

enum { AS_WEIGHTS, AS_RECEIVED, AS_OFFSET };

static float *part_of(Slots s, int as) { return as == AS_WEIGHTS ? s.w : as == AS_RECEIVED ? s.received : s.offset; }

/* Copy a matrix [rows, columns] into panels [padded columns / PANEL, padded_rows, PANEL], or back minus `start`. */
static void to_panels(const float *from, int64_t rows, int64_t columns, int64_t padded_rows, float *to) {
    memset(to, 0, (size_t)(padded_rows * up(columns, PANEL)) * sizeof(float));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            to[(c / PANEL * padded_rows + r) * PANEL + c % PANEL] = from[r * columns + c];
}

static void from_panels(const float *panels, const float *start, int64_t rows, int64_t columns, int64_t padded_rows,
                        float *to) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            to[r * columns + c] = panels[(c / PANEL * padded_rows + r) * PANEL + c % PANEL] - start[r * columns + c];
}

/* Copy rows of `columns` numbers to rows of `padded` numbers, or back minus `start`. */
static void to_padded(const float *from, int64_t rows, int64_t columns, int64_t padded, float *to) {
    for (int64_t r = 0; r < rows; r++) {
        memset(to + r * padded, 0, (size_t)padded * sizeof(float));
        memcpy(to + r * padded, from + r * columns, (size_t)columns * sizeof(float));
    }
}

static void from_padded(const float *padded_rows, const float *start, int64_t rows, int64_t columns, int64_t padded,
                        float *to) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            to[r * columns + c] = padded_rows[r * padded + c] - start[r * columns + c];
}

static void gather_candidates(const Space *s, const Weights *w, int as) {
    const Job *job = s->job;
    const int64_t units = job->head_dim, kinds = job->num_kinds * job->kind_dim, features = job->num_features;
    to_panels(w->candidate_input, features, units, features, part_of(s->candidate_input, as));
    to_panels(w->candidate_state, job->hidden_dim, units, s->H, part_of(s->candidate_state, as));
    to_panels(w->candidate_of_context, job->num_context, units, s->G, part_of(s->of_context, as));
    to_padded(w->candidate_of_kind, job->kind_dim, units, s->E, part_of(s->of_kind, as));
    to_padded(w->candidate_kinds, 1, kinds, up(kinds, LANES), part_of(s->kinds, as));
    to_padded(w->candidate_bias, 1, units, s->E, part_of(s->candidate_bias, as));
    to_padded(w->candidate_output, 1, units, s->E, part_of(s->output, as));
    to_padded(w->candidate_linear, 1, features, s->F, part_of(s->linear, as));
    to_padded(w->candidate_kind_bias, 1, job->num_kinds, up(job->num_kinds, LANES), part_of(s->kind_bias, as));
}

static void finish_candidates(const Space *s) {
    const Job *job = s->job;
    const Weights *w = &job->weights, *to = &job->update;
    const int64_t units = job->head_dim, kinds = job->num_kinds * job->kind_dim, features = job->num_features;
    from_panels(s->candidate_input.w, w->candidate_input, features, units, features, to->candidate_input);
    from_panels(s->candidate_state.w, w->candidate_state, job->hidden_dim, units, s->H, to->candidate_state);
    from_panels(s->of_context.w, w->candidate_of_context, job->num_context, units, s->G, to->candidate_of_context);
    from_padded(s->of_kind.w, w->candidate_of_kind, job->kind_dim, units, s->E, to->candidate_of_kind);
    from_padded(s->kinds.w, w->candidate_kinds, 1, kinds, kinds, to->candidate_kinds);
    from_padded(s->candidate_bias.w, w->candidate_bias, 1, units, units, to->candidate_bias);
    from_padded(s->output.w, w->candidate_output, 1, units, units, to->candidate_output);
    from_padded(s->linear.w, w->candidate_linear, 1, features, features, to->candidate_linear);
    from_padded(s->kind_bias.w, w->candidate_kind_bias, 1, job->num_kinds, job->num_kinds, to->candidate_kind_bias);
}

/* Copy arrays of the weights' shapes into blocks. */
static void gather(Space *s, const Weights *w, int as) {
    const Job *job = s->job;
    const int64_t width = GATES * job->hidden_dim, hidden = job->hidden_dim, classes = job->num_classes;
    float *recurrent = part_of(s->recurrent, as), *rows = part_of(s->rows, as), *numbers = part_of(s->numbers, as);
    float *bias = part_of(s->bias, as), *head = part_of(s->head_kernel, as), *head_bias = part_of(s->head_bias, as);
    memset(recurrent, 0, (size_t)(s->U * s->H * PULLED) * sizeof(float));
    for (int64_t row = 0; row < job->num_own; row++)
        for (int64_t u = 0; u < s->U; u++)
            gather_block(job, w->rows + job->row_ids[row] * width, AS_GATES, u,
                         rows + (u * job->num_own + row) * PULLED);
    for (int64_t k = 0; k < hidden; k++)
        for (int64_t u = 0; u < s->U; u++)
            gather_block(job, w->recurrent + k * width, AS_PULLED, u, recurrent + (u * s->H + k) * PULLED);
    for (int64_t u = 0; u < s->U; u++) {
        for (int64_t n = 0; n < job->num_numbers; n++)
            gather_block(job, w->numbers + n * width, AS_GATES, u, numbers + (u * job->num_numbers + n) * PULLED);
        gather_block(job, w->bias, AS_GATES, u, bias + u * 2 * PULLED);
        gather_block(job, w->bias + width, AS_PULLED, u, bias + (u * 2 + 1) * PULLED);
    }
    memset(head, 0, (size_t)(s->C * s->H) * sizeof(float));
    for (int64_t c = 0; c < classes; c += HEAD)
        for (int64_t k = 0; k < hidden; k++) {
            int64_t count = classes - c < HEAD ? classes - c : HEAD;
            memcpy(head + c * s->H + k * HEAD, w->head_kernel + k * classes + c, (size_t)count * sizeof(float));
        }
    for (int64_t c = 0; c < s->C; c++)
        head_bias[c] = c < classes ? w->head_bias[c] : as == AS_OFFSET ? 0.0f : NO_CLASS;
    part_of(s->prior_scale, as)[0] = job->log_prior || job->head_dim ? *w->prior_scale : 0.0f;
    if (job->head_dim) gather_candidates(s, w, as);
}

/* Copy the start weights into blocks, and what is added to the gradients. */
static void start(Space *s) {
    const Job *job = s->job;
    const int anchored = job->prox_mu > 0.0f && job->anchor.recurrent;
    gather(s, &job->weights, AS_WEIGHTS);
    if (job->offset.recurrent) gather(s, &job->offset, AS_OFFSET);
    s->all_rows = anchored || job->offset.recurrent;
    memset(s->touched, 0, (size_t)job->num_own);
    if (anchored) {
        gather(s, &job->anchor, AS_RECEIVED);
        return;
    }
    keep_received(s->recurrent), keep_received(s->rows), keep_received(s->numbers), keep_received(s->bias);
    keep_received(s->head_kernel), keep_received(s->head_bias), keep_received(s->prior_scale);
    if (!job->head_dim) return;
    keep_received(s->candidate_input), keep_received(s->candidate_state), keep_received(s->of_context);
    keep_received(s->kinds), keep_received(s->of_kind), keep_received(s->candidate_bias);
    keep_received(s->output), keep_received(s->linear), keep_received(s->kind_bias);
}

/* Write the update: the change of each weight. */
static void finish(const Space *s) {
    const Job *job = s->job;
    const int64_t width = GATES * job->hidden_dim, hidden = job->hidden_dim, classes = job->num_classes;
    const Weights *w = &job->weights, *to = &job->update;
    for (int64_t k = 0; k < hidden; k++)
        for (int64_t u = 0; u < s->U; u++)
            scatter_block(job, s->recurrent.w + (u * s->H + k) * PULLED, w->recurrent + k * width, AS_PULLED, u,
                          to->recurrent + k * width);
    for (int64_t row = 0; row < job->num_own; row++)
        for (int64_t u = 0; u < s->U; u++)
            scatter_block(job, s->rows.w + (u * job->num_own + row) * PULLED,
                          w->rows + job->row_ids[row] * width, AS_GATES, u, to->rows + row * width);
    for (int64_t u = 0; u < s->U; u++) {
        for (int64_t n = 0; n < job->num_numbers; n++)
            scatter_block(job, s->numbers.w + (u * job->num_numbers + n) * PULLED, w->numbers + n * width,
                          AS_GATES, u, to->numbers + n * width);
        scatter_block(job, s->bias.w + u * 2 * PULLED, w->bias, AS_GATES, u, to->bias);
        scatter_block(job, s->bias.w + (u * 2 + 1) * PULLED, w->bias + width, AS_PULLED, u, to->bias + width);
    }
    for (int64_t k = 0; k < hidden; k++)
        for (int64_t c = 0; c < classes; c++) {
            float now = s->head_kernel.w[c / HEAD * HEAD * s->H + k * HEAD + c % HEAD];
            to->head_kernel[k * classes + c] = now - w->head_kernel[k * classes + c];
        }
    for (int64_t c = 0; c < classes; c++) to->head_bias[c] = s->head_bias.w[c] - w->head_bias[c];
    if (job->head_dim) finish_candidates(s);
    if (job->log_prior || job->head_dim) *to->prior_scale = s->prior_scale.w[0] - *w->prior_scale;
}

/* What one target of the local step that begins at `from` counts for in its mean loss. */
static float share_of_target(const Space *s, int64_t from) {
    float num_targets = 0;
    for (int64_t i = 0; i < s->length * s->job->batch; i++) num_targets += s->job->mask[from + i];
    return 1.0f / (num_targets > 1.0f ? num_targets : 1.0f);
}

static float *hidden_at(const Space *s, int64_t u, int64_t row) {
    return s->hidden + (u * (s->B + s->P) + row) * LANES;
}

#endif
