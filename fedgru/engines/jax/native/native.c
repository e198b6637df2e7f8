/* The C code as one library; fedgru/engines/jax/native/calls.py calls it. */
#include "queue.h"
#include "forward_pass.h"

#include <stddef.h>

/* Bytes of memory that a forward pass works in. */
int64_t fedgru_forward_bytes(const Forward *forward) {
    Job job = job_of(forward);
    return space_bytes(&job);
}

/* A caller compares these with its own declarations. */
int64_t fedgru_job_struct_bytes(void) { return sizeof(Job); }

int64_t fedgru_forward_struct_bytes(void) { return sizeof(Forward); }

#define AT(type, field) \
    if (!strcmp(name, #type "." #field)) return offsetof(type, field);

/* The byte at which a field begins, by its name, as in "Job.batch"; -1 if there is none. */
int64_t fedgru_offset(const char *name) {
    AT(Weights, rows) AT(Weights, numbers) AT(Weights, recurrent) AT(Weights, bias)
    AT(Weights, head_kernel) AT(Weights, head_bias) AT(Weights, prior_scale)
    AT(Weights, candidate_input) AT(Weights, candidate_state) AT(Weights, candidate_of_context)
    AT(Weights, candidate_kinds) AT(Weights, candidate_of_kind) AT(Weights, candidate_bias)
    AT(Weights, candidate_output) AT(Weights, candidate_linear) AT(Weights, candidate_kind_bias)
    AT(Job, head_dim) AT(Job, num_features) AT(Job, num_context) AT(Job, num_kinds) AT(Job, kind_dim)
    AT(Job, most_candidates) AT(Job, most_rows) AT(Job, head_kept) AT(Job, first_row) AT(Job, features) AT(Job, context) AT(Job, candidate_log_prior)
    AT(Job, kinds) AT(Job, log_within) AT(Job, log_top) AT(Job, is_top)
    AT(Job, batch) AT(Job, seq_len) AT(Job, num_ids) AT(Job, num_numbers) AT(Job, hidden_dim)
    AT(Job, num_classes) AT(Job, num_table) AT(Job, num_own) AT(Job, steps_per_pass) AT(Job, num_steps)
    AT(Job, adam) AT(Job, client_lr) AT(Job, kept) AT(Job, prox_mu) AT(Job, key) AT(Job, row_ids)
    AT(Job, rows) AT(Job, numbers) AT(Job, targets) AT(Job, mask) AT(Job, log_prior) AT(Job, resets) AT(Job, weights) AT(Job, update)
    AT(Job, offset) AT(Job, anchor)
    AT(Job, stop) AT(Job, loss_sum) AT(Job, num_correct) AT(Job, done)
    AT(Forward, num_rows) AT(Forward, length) AT(Forward, num_ids) AT(Forward, num_numbers) AT(Forward, hidden_dim)
    AT(Forward, rows) AT(Forward, numbers) AT(Forward, starts) AT(Forward, places) AT(Forward, weights)
    AT(Forward, state) AT(Forward, hidden)
    return -1;
}

/* A queue of clients to be trained, see queue.h. */
Queue *fedgru_new_queue(int64_t room) { return new_queue(room); }

void fedgru_add_job(Queue *q, Job *job) { add_job(q, job); }

void fedgru_close_queue(Queue *q) { close_queue(q); }

void fedgru_free_queue(Queue *q) { free_queue(q); }

int32_t fedgru_wait_for(Queue *q, const Job *job, int64_t most, int64_t milliseconds) {
    return wait_for(q, job, most, milliseconds);
}

/* Train clients until the queue is closed, see `work` in queue.h. */
int64_t fedgru_work(Queue *q, char *memory, int64_t size_bytes, int64_t milliseconds) {
    uint64_t before = flush_denormals();
    int64_t wanted = work(q, memory, size_bytes, milliseconds);
    restore_denormals(before);
    return wanted;
}

/* Run the cell over rows of check-ins and write the wanted states. */
void fedgru_forward(const Forward *forward, char *memory) {
    uint64_t before = flush_denormals();
    run_forward(forward, memory);
    restore_denormals(before);
}
