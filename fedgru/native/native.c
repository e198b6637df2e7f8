/* The C code as one library; fedgru/native/calls.py calls it. */
#include "queue.h"
#include "walk.h"

/* Bytes of memory that a walk works in. */
int64_t fedgru_walk_bytes(const Walk *walk) {
    Job job = job_of(walk);
    return space_bytes(&job);
}

/* What a caller checks its own declarations by. */
int64_t fedgru_job_struct_bytes(void) { return sizeof(Job); }

int64_t fedgru_walk_struct_bytes(void) { return sizeof(Walk); }

/* A queue of clients to be trained, see queue.h. */
Queue *fedgru_new_queue(int64_t room) { return new_queue(room); }

void fedgru_add_job(Queue *q, Job *job) { add_job(q, job); }

void fedgru_close_queue(Queue *q) { close_queue(q); }

void fedgru_free_queue(Queue *q) { free_queue(q); }

int32_t fedgru_wait_for(Queue *q, const Job *job, int64_t most, int64_t milliseconds) {
    return wait_for(q, job, most, milliseconds);
}

/* Train clients, each from the weights it is given to its update, until the queue is closed. */
int64_t fedgru_work(Queue *q, char *memory, int64_t size_bytes, int64_t milliseconds) {
    unsigned before = flush_denormals();
    int64_t wanted = work(q, memory, size_bytes, milliseconds);
    restore_denormals(before);
    return wanted;
}

/* Run the cell over rows of check-ins and keep the states that are asked for. */
void fedgru_walk(const Walk *walk, char *memory) {
    unsigned before = flush_denormals();
    run_walk(walk, memory);
    restore_denormals(before);
}
