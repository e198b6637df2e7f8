/* A client's local steps through a GRU: forward, back, and the optimizer, in one call.
 *
 * The same numbers as fedgru/engines/local_steps.py, but for rounding; names and the order of the
 * gates are those of fedgru/models/gru.py. What makes it fast:
 *
 * - Hidden units go in blocks of 16, one vector. All that belongs to a block lies together, its three
 *   gates side by side, so that a tile of the recurrent product holds whole gates of some units, and
 *   what is done element by element happens while they are in registers.
 * - No gradient of the recurrent or head kernel or of a table is ever written to memory: a tile of it
 *   goes from its sum into the optimizer.
 * - The optimizer's slots need no zeros before the first step, and a row of the table no step
 *   before the first that reads it, for its gradient and moments are zero till then.
 *
 * Sizes are padded: hidden units and classes to a multiple of 32, the batch to one of ROWS. Padded
 * units have zero weights and stay zero, padded classes have a bias of -1e30, so their
 * probability is zero; neither has a gradient. Padded sequences have no targets.
 */
#include <stdlib.h>

#include "products.h"
#include "threefry.h"
#include "tiles.h"

#define GATES 3
#define PULLED (GATES * LANES) /* what a block of units takes from the state: candidate, update, reset */
#define KEPT (4 * LANES)
#define HEAD 32 /* columns of a panel of the head's kernel */
#define NO_CLASS -1e30f

typedef struct {
    float *rows, *numbers, *recurrent, *bias, *head_kernel, *head_bias, *prior_scale;
} Weights;

typedef struct {
    int64_t batch, seq_len, num_ids, num_numbers, hidden_dim, num_classes;
    int64_t num_table;                         /* rows of the table that dropout is drawn for */
    int64_t num_own, steps_per_pass, num_steps;
    int64_t adam;                              /* 1, or 0 for plain gradient descent */
    float client_lr, dropout;
    uint32_t key[2];
    const int32_t *row_ids;                    /* [num_own], rows of weights.rows */
    const int32_t *rows;                       /* [steps, seq_len, batch, num_ids], own rows or -1 */
    const float *numbers;                      /* [steps, seq_len, batch, num_numbers] */
    const int32_t *targets;                    /* [steps, seq_len, batch] */
    const float *mask;                         /* [steps, seq_len, batch] */
    const float *log_prior;                    /* [steps, seq_len, batch, num_classes], or null */
    Weights weights, update;                   /* update.rows: [num_own, 3 * hidden_dim] */
    float loss_sum, num_correct;
} Job;

typedef struct {
    float *w, *m, *v;
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
    float rate, d_prior_scale;
    int fresh;                 /* before the first local step: slots hold nothing yet */
    int tiles;                 /* whether AMX multiplies; the batch then is padded to TILE_ROWS */
    Slots recurrent;           /* [U, H, PULLED] */
    Slots rows;                /* [U, num_own, PULLED], gates in order */
    Slots numbers;             /* [U, num_numbers, PULLED] */
    Slots bias;                /* [U, 2, PULLED]: of the inputs, gates in order; of the state, as pulled */
    Slots head_kernel;         /* [C / HEAD, H, HEAD] */
    Slots head_bias;           /* [C] */
    Slots prior_scale;         /* [1] */
    float *recurrent_t;        /* [H / HEAD, U * PULLED, HEAD], without tiles */
    uint32_t *kernel_tiles;    /* [U, H / 32, GATES, PARTS]: the recurrent kernel, 32 of its rows a tile */
    uint32_t *kernel_t_tiles;  /* [U / 2, K, 2, PARTS]: transposed, 32 of its columns; K = U * GATES / 2 */
    uint32_t *left_tiles;      /* [B / 16, K, PARTS]: what it is multiplied by at one time step */
    uint32_t *hidden_t_tiles;  /* [U, Q, PARTS]: states, 16 units by 32 positions; Q = P / 32, rounded up */
    uint32_t *back_tiles;      /* [Q, GATES, PARTS]: of one block of units */
    float *head_kernel_t;      /* [H / HEAD, C, HEAD] */
    float *hidden;             /* [U, B + P, LANES]: the state before step t at t * B */
    float *inputs;             /* [U, B, PULLED], of one time step */
    float *kept;               /* [U, P, KEPT]: update, reset, candidate, the state's share of it */
    float *back;               /* in their place: gradients by what is pulled, and by the candidate's input */
    float *carried;            /* [U, B, LANES]: gradient by the state that comes not through a product */
    float *scores;             /* [P, C], then their gradients */
    float *d_hidden;           /* [U, P, LANES] */
    float *scaled;             /* [P, N], numbers after dropout */
    float *scale;              /* [batch, num_own + num_numbers], dropout's factors */
    char *touched;             /* [num_own] */
    int64_t *first_use;        /* [num_own + 1] */
    Use *uses;                 /* [P * num_ids], by row */
} Space;

static int64_t up(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

static void *carve(char **at, int64_t size_bytes) {
    void *here = *at;
    *at += up(size_bytes, 64) + 64; /* the odd line keeps equal places of arrays off the same cache sets */
    return here;
}

static float *floats(char **at, int64_t size) { return carve(at, size * (int64_t)sizeof(float)); }

static Slots slots(char **at, const Job *job, int64_t size) {
    Slots s = {floats(at, size), NULL, NULL};
    if (job->adam) s.m = floats(at, size), s.v = floats(at, size);
    return s;
}

static uint32_t *tiles(char **at, int64_t count) { return carve(at, count * PARTS * (int64_t)sizeof(uint32_t)); }

static int tiles_permitted; /* see fedgru_start */

static int64_t lay_out(const Job *job, char *memory, Space *s) {
    char *at = memory;
    s->job = job;
    s->H = up(job->hidden_dim, HEAD);
    s->U = s->H / LANES;
    s->tiles = tiles_permitted && 2 * job->batch >= TILE_ROWS; /* they multiply 16 rows, or some in vain */
    s->B = up(job->batch, s->tiles ? TILE_ROWS : ROWS);
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
    s->recurrent_t = s->tiles ? NULL : floats(&at, s->U * s->H * PULLED);
    if (s->tiles) {
        const int64_t Q = up(s->P, 2 * TILE_ROWS) / (2 * TILE_ROWS), K = s->U * GATES / 2;
        s->kernel_tiles = tiles(&at, s->U * s->H / 32 * GATES);
        s->kernel_t_tiles = tiles(&at, s->U * K);
        s->left_tiles = tiles(&at, s->B / TILE_ROWS * K);
        s->hidden_t_tiles = tiles(&at, s->U * Q);
        s->back_tiles = tiles(&at, Q * GATES);
    }
    s->head_kernel_t = floats(&at, s->C * s->H);
    s->hidden = floats(&at, s->U * (s->B + s->P) * LANES);
    s->inputs = floats(&at, s->U * s->B * PULLED);
    s->kept = floats(&at, s->U * s->P * KEPT);
    s->back = s->kept;
    s->carried = floats(&at, s->U * s->B * LANES);
    s->scores = floats(&at, s->P * s->C);
    s->d_hidden = floats(&at, s->U * s->P * LANES);
    s->scaled = floats(&at, s->P * s->N);
    s->scale = floats(&at, job->batch * (job->num_own + job->num_numbers));
    s->touched = carve(&at, job->num_own);
    s->first_use = carve(&at, (job->num_own + 1) * (int64_t)sizeof(int64_t));
    s->uses = carve(&at, s->P * job->num_ids * (int64_t)sizeof(Use));
    return at - memory;
}

/* To be called once, before anything else. Returns 1 if products will run on AMX's tiles, 0 if not. */
int fedgru_start(void) { return tiles_permitted = permit_tiles(); }

/* What a caller checks its own declaration by. */
int64_t fedgru_local_steps_struct_bytes(void) { return sizeof(Job); }

/* Bytes of memory that fedgru_local_steps works in. */
int64_t fedgru_local_steps_bytes(const Job *job) {
    Space s;
    return lay_out(job, NULL, &s) + 64;
}

/* ---- from the weights' own layout to blocks of units, and back ---------------------------------- */

static const int AS_GATES[GATES] = {0, 1, 2}, AS_PULLED[GATES] = {2, 0, 1};

/* Gates of the units of block u in one row of a kernel, [3 * hidden_dim] -> [PULLED]. */
static void gather_block(const Job *job, const float *row, const int *order, int64_t u, float *to) {
    int64_t left = job->hidden_dim - u * LANES;
    for (int g = 0; g < GATES; g++) {
        const float *from = row + order[g] * job->hidden_dim + u * LANES;
        store(to + g * LANES, left > 0 ? load_some(from, left) : (vec){0});
    }
}

/* What `gather_block` took, less the row as it was, into `to`. */
static void scatter_block(const Job *job, const float *block, const float *row, const int *order, int64_t u,
                          float *to) {
    int64_t left = job->hidden_dim - u * LANES;
    for (int g = 0; left > 0 && g < GATES; g++) {
        int64_t at = order[g] * job->hidden_dim + u * LANES;
        store_some(to + at, load(block + g * LANES) - load_some(row + at, left), left);
    }
}

static void start(Space *s) {
    const Job *job = s->job;
    const int64_t width = GATES * job->hidden_dim, hidden = job->hidden_dim, classes = job->num_classes;
    const Weights *w = &job->weights;
    memset(s->recurrent.w, 0, (size_t)(s->U * s->H * PULLED) * sizeof(float));
    for (int64_t u = 0; u < s->U; u++) {
        for (int64_t k = 0; k < hidden; k++)
            gather_block(job, w->recurrent + k * width, AS_PULLED, u, s->recurrent.w + (u * s->H + k) * PULLED);
        for (int64_t row = 0; row < job->num_own; row++)
            gather_block(job, w->rows + job->row_ids[row] * width, AS_GATES, u,
                         s->rows.w + (u * job->num_own + row) * PULLED);
        for (int64_t n = 0; n < job->num_numbers; n++)
            gather_block(job, w->numbers + n * width, AS_GATES, u,
                         s->numbers.w + (u * job->num_numbers + n) * PULLED);
        gather_block(job, w->bias, AS_GATES, u, s->bias.w + u * 2 * PULLED);
        gather_block(job, w->bias + width, AS_PULLED, u, s->bias.w + (u * 2 + 1) * PULLED);
    }
    memset(s->head_kernel.w, 0, (size_t)(s->C * s->H) * sizeof(float));
    for (int64_t c = 0; c < classes; c += HEAD)
        for (int64_t k = 0; k < hidden; k++) {
            int64_t count = classes - c < HEAD ? classes - c : HEAD;
            memcpy(s->head_kernel.w + c * s->H + k * HEAD, w->head_kernel + k * classes + c,
                   (size_t)count * sizeof(float));
        }
    for (int64_t c = 0; c < s->C; c++) s->head_bias.w[c] = c < classes ? w->head_bias[c] : NO_CLASS;
    s->prior_scale.w[0] = job->log_prior ? *w->prior_scale : 0.0f;
    memset(s->touched, 0, (size_t)job->num_own);
}

static void finish(const Space *s) {
    const Job *job = s->job;
    const int64_t width = GATES * job->hidden_dim, hidden = job->hidden_dim, classes = job->num_classes;
    const Weights *w = &job->weights, *to = &job->update;
    for (int64_t u = 0; u < s->U; u++) {
        for (int64_t k = 0; k < hidden; k++)
            scatter_block(job, s->recurrent.w + (u * s->H + k) * PULLED, w->recurrent + k * width, AS_PULLED, u,
                          to->recurrent + k * width);
        for (int64_t row = 0; row < job->num_own; row++)
            scatter_block(job, s->rows.w + (u * job->num_own + row) * PULLED,
                          w->rows + job->row_ids[row] * width, AS_GATES, u, to->rows + row * width);
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
    if (job->log_prior) *to->prior_scale = s->prior_scale.w[0] - *w->prior_scale;
}

static void transpose_head(const Space *s, int64_t c, int64_t k) {
    for (int j = 0; j < HEAD; j += LANES)
        transpose(s->head_kernel.w + c * s->H + k * HEAD + j, HEAD,
                  s->head_kernel_t + (k / HEAD * s->C + c + j) * HEAD + k % HEAD, HEAD);
}

/* ---- one local step ----------------------------------------------------------------------------- */

/* Draw dropout, scale the numbers, and list for each own row where it is read. */
static void prepare_inputs(Space *s, int64_t at, int64_t step) {
    const Job *job = s->job;
    const int64_t own = job->num_own, ids = job->num_ids, count = job->num_numbers, width = own + count;
    if (job->dropout > 0) { /* one mask per sequence and local step, as Keras draws it */
        Key key = fold_in((Key){{job->key[0], job->key[1]}}, (uint32_t)step);
        for (int64_t b = 0; b < job->batch; b++) {
            uint32_t first = (uint32_t)(b * (job->num_table + count));
            draw_kept(key, 1.0f - job->dropout, first, own, s->scale + b * width);
            draw_kept(key, 1.0f - job->dropout, first + (uint32_t)job->num_table, count,
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
    } /* an end, one row on, has become a beginning */
    memmove(s->first_use, s->first_use + 1, (size_t)own * sizeof(int64_t));
    s->first_use[own] = total;
}

/* What the inputs give the gates at time step t: looked-up rows, numbers and the bias. */
static void read_inputs(const Space *s, int64_t at, int64_t t) {
    const Job *job = s->job;
    const int64_t own = job->num_own, ids = job->num_ids, count = job->num_numbers, width = own + count;
    const int32_t *rows = job->rows + (at * job->seq_len + t) * job->batch * ids;
    for (int64_t u = 0; u < s->U; u++) {
        const float *bias = s->bias.w + u * 2 * PULLED, *table = s->rows.w + u * own * PULLED;
        const float *kernel = s->numbers.w + u * count * PULLED;
        for (int64_t b = 0; b < s->B; b++) {
            vec gates[GATES];
            for (int g = 0; g < GATES; g++) gates[g] = load(bias + g * LANES);
            for (int64_t n = 0; b < job->batch && n < count; n++) {
                float x = s->scaled[(t * s->B + b) * s->N + n];
                for (int g = 0; g < GATES; g++) gates[g] += x * load(kernel + n * PULLED + g * LANES);
            }
            for (int64_t f = 0; b < job->batch && f < ids; f++) {
                int32_t row = rows[b * ids + f];
                if (row < 0) continue;
                float scale = s->scale[b * width + row];
                for (int g = 0; g < GATES; g++) gates[g] += scale * load(table + row * PULLED + g * LANES);
            }
            for (int g = 0; g < GATES; g++) store(s->inputs + (u * s->B + b) * PULLED + g * LANES, gates[g]);
        }
    }
}

static float *hidden_at(const Space *s, int64_t u, int64_t row) {
    return s->hidden + (u * (s->B + s->P) + row) * LANES;
}

/* Lay the recurrent kernel's columns for a block of units out for `go_back`. */
static void lay_out_kernel(const Space *s, int64_t u) {
    for (int64_t k = 0; k < s->H; k += LANES)
        for (int64_t j = u * PULLED; j < (u + 1) * PULLED; j += LANES)
            transpose(s->recurrent.w + (u * s->H + k) * PULLED + j % PULLED, PULLED,
                      s->recurrent_t + (k / HEAD * s->U * PULLED + j) * HEAD + k % HEAD, HEAD);
}

/* The gates of some units of one sequence, from what the state gives them, and the state after them. */
INLINE void pass_gates(const Space *s, int64_t u, int64_t t, int64_t b, vec candidate_h, vec update, vec reset) {
    const float *gates = s->inputs + (u * s->B + b) * PULLED, *bias = s->bias.w + (u * 2 + 1) * PULLED;
    float *kept = s->kept + (u * s->P + t * s->B + b) * KEPT;
    candidate_h += load(bias);
    update = logistic(load(gates) + update + load(bias + LANES));
    reset = logistic(load(gates + LANES) + reset + load(bias + 2 * LANES));
    vec candidate = hyperbolic_tangent(load(gates + 2 * LANES) + reset * candidate_h);
    vec before = load(hidden_at(s, u, t * s->B + b));
    store(hidden_at(s, u, (t + 1) * s->B + b), update * before + (1.0f - update) * candidate);
    store(kept, update);
    store(kept + LANES, reset);
    store(kept + 2 * LANES, candidate);
    store(kept + 3 * LANES, candidate_h);
}

/* From the state before time step t to the one after it. */
static void advance(const Space *s, int64_t t) {
    for (int64_t u = 0; u < s->U; u++)
        for (int64_t b = 0; b < s->B; b += ROWS) {
            vec pulled[ROWS * GATES];
            Left left = {hidden_at(s, 0, t * s->B + b), LANES, 1, (s->B + s->P) * LANES, LANES, s->U};
            multiply(GATES, left, s->recurrent.w + u * s->H * PULLED, PULLED, pulled);
            for (int r = 0; r < ROWS; r++)
                pass_gates(s, u, t, b + r, pulled[r * GATES], pulled[r * GATES + 1], pulled[r * GATES + 2]);
        }
}

/* Scores of all positions, their loss, and the gradient of its mean by them, in their place. */
static void score(Space *s, Job *job, int64_t at) {
    const int64_t classes = job->num_classes, from = at * job->seq_len * job->batch;
    for (int64_t c = 0; c < s->C; c += HEAD)
        for (int64_t p = 0; p < s->length * s->B; p += ROWS) {
            vec sums[ROWS * 2];
            Left left = {hidden_at(s, 0, s->B + p), LANES, 1, (s->B + s->P) * LANES, LANES, s->U};
            multiply(2, left, s->head_kernel.w + c * s->H, HEAD, sums);
            for (int r = 0; r < ROWS; r++)
                for (int j = 0; j < 2; j++)
                    store(s->scores + (p + r) * s->C + c + j * LANES,
                          sums[r * 2 + j] + load(s->head_bias.w + c + j * LANES));
        }
    float num_targets = 0;
    for (int64_t i = 0; i < s->length * job->batch; i++) num_targets += job->mask[from + i];
    const float mean = 1.0f / (num_targets > 1.0f ? num_targets : 1.0f);
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
        int64_t first = 0; /* of several that are largest */
        for (int64_t c = 1; c < classes; c++)
            if (scores[c] > scores[first]) first = c;
        const float most = scores[first], at_target = scores[job->targets[i]];
        vec total = {0};
        for (int64_t c = 0; c < s->C; c += LANES) {
            vec e = choose(load(scores + c) > NO_CLASS / 2, exponential(load(scores + c) - most), (vec){0});
            store(scores + c, e);
            total += e;
        }
        const float denominator = sum(total), mask = job->mask[i];
        job->loss_sum += mask * (logf(denominator) - (at_target - most));
        job->num_correct += mask * (float)(first == job->targets[i]);
        for (int64_t c = 0; c < s->C; c += LANES)
            store(scores + c, load(scores + c) * (mask * mean / denominator));
        scores[job->targets[i]] -= mask * mean;
        for (int64_t c = 0; log_prior && c < classes; c += LANES)
            d_prior_scale += load(scores + c) * load_some(log_prior + c, classes - c);
    }
    s->d_prior_scale = sum(d_prior_scale);
    for (int64_t k = 0; k < s->H; k += HEAD)
        for (int64_t p = 0; p < s->length * s->B; p += ROWS) {
            vec sums[ROWS * 2];
            Left left = {s->scores + p * s->C, s->C, 1, 0, s->C, 1};
            multiply(2, left, s->head_kernel_t + k * s->C, HEAD, sums);
            for (int r = 0; r < ROWS; r++)
                for (int j = 0; j < 2; j++)
                    store(s->d_hidden + ((k / LANES + j) * s->P + p + r) * LANES, sums[r * 2 + j]);
        }
}

/* Through one time step of some units of one sequence: from d, the gradient by the state after it. */
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

/* Through time step t, from what comes back through the product of the step after it. */
INLINE void pull_back_further(const Space *s, int64_t u, int64_t t, int64_t b, vec d) {
    d += load(s->d_hidden + (u * s->P + t * s->B + b) * LANES);
    d += load(s->carried + (u * s->B + b) * LANES);
    pull_back(s, u, t, b, d);
}

/* Through the last time step: truncated backpropagation, nothing comes from later ones. */
static void pull_back_last(const Space *s) {
    const int64_t t = s->length - 1;
    for (int64_t u = 0; t >= 0 && u < s->U; u++)
        for (int64_t b = 0; b < s->B; b++)
            pull_back(s, u, t, b, load(s->d_hidden + (u * s->P + t * s->B + b) * LANES));
}

/* Through time step t, one with a next. */
static void go_back(const Space *s, int64_t t) {
    for (int64_t k = 0; k < s->H; k += HEAD)
        for (int64_t b = 0; b < s->B; b += ROWS) {
            vec sums[ROWS * 2];
            Left left = {s->back + ((t + 1) * s->B + b) * KEPT, KEPT, 1, s->P * KEPT, PULLED, s->U};
            multiply(2, left, s->recurrent_t + k * s->U * PULLED, HEAD, sums);
            for (int r = 0; r < ROWS; r++)
                for (int j = 0; j < 2; j++) pull_back_further(s, k / LANES + j, t, b + r, sums[r * 2 + j]);
        }
}

/* The optimizer's step of sixteen weights. Source: as fedgru/local_optimizers.py. */
INLINE void adjust(const Space *s, Slots slots, int64_t at, vec gradient, int fresh) {
    vec w = load(slots.w + at);
    if (!s->job->adam) {
        store(slots.w + at, w - s->job->client_lr * gradient);
        return;
    }
    vec m = fresh ? (vec){0} : load(slots.m + at), v = fresh ? (vec){0} : load(slots.v + at);
    m += 0.1f * (gradient - m);
    v += 0.001f * (gradient * gradient - v);
    store(slots.m + at, m);
    store(slots.v + at, v);
    store(slots.w + at, w - s->rate * m * reciprocal(square_root(v) + 1e-7f));
}

/* The recurrent kernel's gradient for a block of units, a sum over all positions, and the step by it. */
static void adjust_recurrent(const Space *s, int64_t u) {
    for (int64_t k = 0; k < s->H; k += ROWS) {
        vec sums[ROWS * GATES];
        Left left = {hidden_at(s, k / LANES, 0) + k % LANES, 1, LANES, 0, s->length * s->B, 1};
        multiply(GATES, left, s->back + u * s->P * KEPT, KEPT, sums);
        for (int i = 0; i < ROWS * GATES; i++)
            adjust(s, s->recurrent, (u * s->H + k) * PULLED + i * LANES, sums[i], s->fresh);
    }
    lay_out_kernel(s, u);
}

/* The same for all else that belongs to a block of units. */
static void adjust_block(const Space *s, int64_t u) {
    const Job *job = s->job;
    const int64_t positions = s->length * s->B, own = job->num_own;
    const float *back = s->back + u * s->P * KEPT, *by_inputs = back + LANES;
    vec sums[ROWS * GATES];
    for (int64_t n = 0; n < job->num_numbers; n += ROWS) {
        Left left = {s->scaled + n, 1, s->N, 0, positions, 1};
        multiply(GATES, left, by_inputs, KEPT, sums);
        for (int i = 0; i < ROWS * GATES && n + i / GATES < job->num_numbers; i++)
            adjust(s, s->numbers, (u * job->num_numbers + n) * PULLED + i * LANES, sums[i], s->fresh);
    }
    for (int64_t row = 0; row < own; row++) {
        const Use *use = s->uses + s->first_use[row], *end = s->uses + s->first_use[row + 1];
        if (use == end && !s->touched[row]) continue;
        vec d[GATES] = {{0}};
        for (; use < end; use++)
            for (int g = 0; g < GATES; g++) d[g] += use->scale * load(by_inputs + use->position * KEPT + g * LANES);
        for (int g = 0; g < GATES; g++)
            adjust(s, s->rows, (u * own + row) * PULLED + g * LANES, d[g], !s->touched[row]);
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
        for (int64_t k = 0; k < s->H; k += ROWS) {
            vec sums[ROWS * 2];
            Left left = {hidden_at(s, k / LANES, s->B) + k % LANES, 1, LANES, 0, positions, 1};
            multiply(2, left, s->scores + c, s->C, sums);
            for (int i = 0; i < ROWS * 2; i++)
                adjust(s, s->head_kernel, c * s->H + k * HEAD + i * LANES, sums[i], s->fresh);
            if ((k + ROWS) % LANES == 0) transpose_head(s, c, k + ROWS - LANES);
        }
        for (int64_t j = c; j < c + HEAD; j += LANES) {
            vec d = {0};
            for (int64_t p = 0; p < positions; p++) d += load(s->scores + p * s->C + j);
            adjust(s, s->head_bias, j, d, s->fresh);
        }
    }
    if (s->job->log_prior) adjust(s, s->prior_scale, 0, (vec){s->d_prior_scale}, s->fresh);
}

/* ---- the recurrent products on tiles -------------------------------------------------------------- */

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
    lay_out_kernel_tiles(s, u);
}
#endif

/* ---- all local steps ------------------------------------------------------------------------------ */

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

/* Time steps up to the last with a target. */
static int64_t used_length(const Job *job, int64_t at) {
    const float *mask = job->mask + at * job->seq_len * job->batch;
    int64_t count = job->seq_len * job->batch;
    while (count && mask[count - 1] == 0.0f) count--;
    return (count + job->batch - 1) / job->batch;
}

/* Train one client, from the weights it is given to its update. `memory` is of
 * fedgru_local_steps_bytes, and its contents do not matter.
 */
void fedgru_local_steps(Job *job, char *memory) {
    Space space, *s = &space;
    lay_out(job, (char *)up((int64_t)memory, 64), s);
    start(s);
    const Products products = start_products(s);
    for (int64_t u = 0; u < s->U; u++) products.lay_out_kernel(s, u);
    for (int64_t c = 0; c < s->C; c += HEAD)
        for (int64_t k = 0; k < s->H; k += LANES) transpose_head(s, c, k);
    job->loss_sum = job->num_correct = 0;
    s->length = 0;
    for (int64_t step = 0; step < job->num_steps; step++) {
        const int64_t at = step % job->steps_per_pass;
        for (int64_t u = 0; u < s->U; u++) { /* the state is carried on, but not into a new pass */
            size_t size = (size_t)(s->B * LANES) * sizeof(float);
            if (at == 0)
                memset(hidden_at(s, u, 0), 0, size);
            else
                memmove(hidden_at(s, u, 0), hidden_at(s, u, s->length * s->B), size);
        }
        s->length = used_length(job, at);
        s->fresh = step == 0;
        s->rate = job->client_lr * sqrtf(1.0f - powf(0.999f, (float)(step + 1))) /
                  (1.0f - powf(0.9f, (float)(step + 1)));
        prepare_inputs(s, at, step);
        for (int64_t t = 0; t < s->length; t++) {
            read_inputs(s, at, t);
            products.advance(s, t);
        }
        score(s, job, at);
        pull_back_last(s);
        for (int64_t t = s->length - 2; t >= 0; t--) products.go_back(s, t);
        products.lay_out_hidden(s);
        for (int64_t u = 0; u < s->U; u++) {
            products.adjust_recurrent(s, u);
            adjust_block(s, u);
        }
        for (int64_t row = 0; row < job->num_own; row++)
            s->touched[row] |= s->first_use[row] < s->first_use[row + 1];
        adjust_head(s);
    }
    finish(s);
    products.end();
}

/* ---- evaluation --------------------------------------------------------------------------------- */

typedef struct {
    int64_t num_rows, length, num_ids, num_numbers, hidden_dim;
    const int32_t *rows;     /* [length, num_rows, num_ids], rows of weights.rows or -1 */
    const float *numbers;    /* [length, num_rows, num_numbers] */
    const uint8_t *starts;   /* [length, num_rows], 1 where a new sequence begins: the state before is zero */
    const int64_t *places;   /* [length, num_rows], where in `hidden` the state after goes; -1 is nowhere */
    Weights weights;         /* the head is not read */
    float *state;            /* [num_rows, hidden_dim], before the first step, then after the last */
    float *hidden;           /* [..., hidden_dim] */
} Walk;

/* A walk is a local step of one time step, over and over, without a way back. */
static Job job_of(const Walk *walk) {
    return (Job){.batch = walk->num_rows, .seq_len = 1, .num_ids = walk->num_ids,
                 .num_numbers = walk->num_numbers, .hidden_dim = walk->hidden_dim, .weights = walk->weights};
}

int64_t fedgru_walk_bytes(const Walk *walk) {
    Job job = job_of(walk);
    return fedgru_local_steps_bytes(&job);
}

/* As `read_inputs`, from the whole table, in which a row lies together and its blocks do not. */
static void read_inputs_of_walk(const Space *s, const Walk *walk, int64_t t) {
    const int64_t count = walk->num_numbers, hidden = walk->hidden_dim;
    for (int64_t u = 0; u < s->U; u++)
        for (int64_t b = 0; b < walk->num_rows; b++) {
            const float *numbers = walk->numbers + (t * walk->num_rows + b) * count;
            for (int g = 0; g < GATES; g++) {
                vec gate = load(s->bias.w + u * 2 * PULLED + g * LANES);
                for (int64_t n = 0; n < count; n++)
                    gate += numbers[n] * load(s->numbers.w + (u * count + n) * PULLED + g * LANES);
                store(s->inputs + (u * s->B + b) * PULLED + g * LANES, gate);
            }
        }
    for (int64_t b = 0; b < walk->num_rows; b++)
        for (int64_t f = 0; f < walk->num_ids; f++) {
            int32_t row = walk->rows[(t * walk->num_rows + b) * walk->num_ids + f];
            for (int g = 0; row >= 0 && g < GATES; g++) {
                const float *from = walk->weights.rows + (row * GATES + g) * hidden;
                float *to = s->inputs + b * PULLED + g * LANES;
                for (int64_t at = 0; at < hidden; at += LANES, to += s->B * PULLED)
                    store(to, load(to) + load_some(from + at, hidden - at));
            }
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

/* Run the cell over rows of check-ins and keep the states that are asked for. */
void fedgru_walk(const Walk *walk, char *memory) {
    const Job job = job_of(walk);
    Space space, *s = &space;
    lay_out(&job, (char *)up((int64_t)memory, 64), s);
    start(s);
    const Products products = start_products(s);
    for (int64_t u = 0; u < s->U; u++) products.lay_out_kernel(s, u);
    memset(s->inputs, 0, (size_t)(s->U * s->B * PULLED) * sizeof(float)); /* of padded rows too */
    memset(s->hidden, 0, (size_t)(s->U * 2 * s->B * LANES) * sizeof(float));
    for (int64_t b = 0; b < walk->num_rows; b++) take_state(s, walk->state, b, b);
    for (int64_t t = 0; t < walk->length; t++) {
        for (int64_t b = 0; b < walk->num_rows; b++)
            for (int64_t u = 0; walk->starts[t * walk->num_rows + b] && u < s->U; u++)
                store(hidden_at(s, u, b), (vec){0});
        read_inputs_of_walk(s, walk, t);
        products.advance(s, 0);
        for (int64_t b = 0; b < walk->num_rows; b++) {
            int64_t place = walk->places[t * walk->num_rows + b];
            if (place >= 0) give_state(s, walk->hidden, s->B + b, place);
        }
        for (int64_t u = 0; u < s->U; u++)
            memcpy(hidden_at(s, u, 0), hidden_at(s, u, s->B), (size_t)(s->B * LANES) * sizeof(float));
    }
    for (int64_t b = 0; b < walk->num_rows; b++) give_state(s, walk->state, b, b);
    products.end();
}

int64_t fedgru_walk_struct_bytes(void) { return sizeof(Walk); }
