/* The C code in a program of its own, for a processor that is emulated: one call of the library, from standard input to
 * standard output. tests/emulated.py writes and reads both.
 *
 * A call is its kind, then the bytes of its structure, then for each pointer of it, in order, the size in bytes of
 * what it points to (-1 for null) and the bytes. What comes back are the bytes of the structure and of what the call
 * writes to.
 */
#include "native.c"

#include <stdio.h>

enum { OFFSET, JOB, FORWARD };
#define NUM_WEIGHTS ((int)(sizeof(Weights) / sizeof(void *)))

static void take(void *to, int64_t size_bytes) {
    if (fread(to, 1, (size_t)size_bytes, stdin) != (size_t)size_bytes) exit(3);
}

static void give(const void *from, int64_t size_bytes) { fwrite(from, 1, (size_t)size_bytes, stdout); }

/* Point `pointer` to what is read; return its size in bytes. */
static int64_t take_array(void *pointer) {
    int64_t size_bytes;
    void *array = NULL;
    take(&size_bytes, 8);
    if (size_bytes >= 0) take(array = malloc((size_t)size_bytes + 1), size_bytes);
    memcpy(pointer, &array, sizeof array);
    return size_bytes;
}

static void take_weights(Weights *weights, int64_t *sizes) {
    for (int i = 0; i < NUM_WEIGHTS; i++) sizes[i] = take_array((void **)weights + i);
}

int main(void) {
    int64_t kind, sizes[NUM_WEIGHTS], written;
    take(&kind, 8);
    if (kind == OFFSET) {
        char name[64] = {0};
        if (!fgets(name, sizeof name, stdin)) return 3;
        int64_t offset = !strcmp(name, "Job")    ? fedgru_job_struct_bytes()
                         : !strcmp(name, "Forward") ? fedgru_forward_struct_bytes()
                                                 : fedgru_offset(name);
        give(&offset, 8);
    } else if (kind == JOB) {
        Job job;
        int32_t stop = 0;
        take(&job, sizeof job);
        void *arrays[] = {&job.row_ids, &job.rows, &job.numbers, &job.targets, &job.mask, &job.log_prior, &job.resets,
                          &job.first_row, &job.features, &job.candidate_log_prior, &job.kinds, &job.context,
                          &job.log_within, &job.log_top, &job.is_top};
        for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) take_array(arrays[i]);
        take_weights(&job.weights, sizes);
        take_weights(&job.update, sizes);
        job.stop = &stop;
        Queue *queue = fedgru_new_queue(1);
        fedgru_add_job(queue, &job);
        int64_t size_bytes = fedgru_work(queue, NULL, 0, 1);
        char *memory = malloc((size_t)size_bytes);
        memset(memory, 0xFF, (size_t)size_bytes); /* NaN: nothing may be read before it is written */
        queue->closed = 0;
        fedgru_work(queue, memory, size_bytes, 1);
        give(&job, sizeof job);
        for (int i = 0; i < NUM_WEIGHTS; i++)
            if (sizes[i] > 0) give(((void **)&job.update)[i], sizes[i]);
    } else {
        Forward forward;
        take(&forward, sizeof forward);
        void *arrays[] = {&forward.rows, &forward.numbers, &forward.starts, &forward.places};
        for (int i = 0; i < 4; i++) take_array(arrays[i]);
        take_weights(&forward.weights, sizes);
        int64_t state = take_array(&forward.state);
        written = take_array(&forward.hidden);
        int64_t size_bytes = fedgru_forward_bytes(&forward);
        char *memory = malloc((size_t)size_bytes);
        memset(memory, 0xFF, (size_t)size_bytes);
        fedgru_forward(&forward, memory);
        give(forward.state, state);
        give(forward.hidden, written);
    }
    return 0;
}
