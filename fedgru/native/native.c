/* The C code as one library; fedgru/native/calls.py calls it. */
#include "local_steps.h"
#include "walk.h"

/* Bytes of memory that a call works in. */
int64_t fedgru_local_steps_bytes(const Job *job) { return space_bytes(job); }

int64_t fedgru_walk_bytes(const Walk *walk) {
    Job job = job_of(walk);
    return space_bytes(&job);
}

/* What a caller checks its own declarations by. */
int64_t fedgru_local_steps_struct_bytes(void) { return sizeof(Job); }

int64_t fedgru_walk_struct_bytes(void) { return sizeof(Walk); }

/* Train one client, from the weights it is given to its update. */
void fedgru_local_steps(Job *job, char *memory) {
    unsigned before = flush_denormals();
    run_local_steps(job, memory);
    restore_denormals(before);
}

/* Run the cell over rows of check-ins and keep the states that are asked for. */
void fedgru_walk(const Walk *walk, char *memory) {
    unsigned before = flush_denormals();
    run_walk(walk, memory);
    restore_denormals(before);
}
