/* A queue of the clients of a cohort: threads take them and train one after another.
 *
 * A Python thread that calls `work` stays in C until there is nothing left to do. With one call for each client,
 * threads would wait for Python's lock after each; if training is short, they would do little else.
 */
#ifndef FEDGRU_QUEUE_H
#define FEDGRU_QUEUE_H

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "local_steps.h"

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a job was added, taken or done, or no more will come */
    int64_t added, taken;
    int closed;
    Job *jobs[];
} Queue;

/* Return a queue for so many jobs in all, or null if there is no memory for it. */
static Queue *new_queue(int64_t room) {
    Queue *q = calloc(1, sizeof(Queue) + (size_t)room * sizeof(Job *));
    if (!q) return NULL;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->changed, NULL);
    return q;
}

/* Only when no thread is at work on it any more. */
static void free_queue(Queue *q) {
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->changed);
    free(q);
}

static void add_job(Queue *q, Job *job) {
    job->done = 0;
    pthread_mutex_lock(&q->lock);
    q->jobs[q->added++] = job;
    pthread_cond_signal(&q->changed); /* one thread is enough: only the thread that adds jobs waits for other changes */
    pthread_mutex_unlock(&q->lock);
}

/* No more jobs will come; those that no thread has taken yet are left undone. */
static void close_queue(Queue *q) {
    pthread_mutex_lock(&q->lock);
    q->closed = 1;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

static struct timespec in_ms(int64_t milliseconds) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    time.tv_sec += milliseconds / 1000;
    time.tv_nsec += milliseconds % 1000 * 1000000;
    if (time.tv_nsec >= 1000000000) time.tv_nsec -= 1000000000, time.tv_sec++;
    return time;
}

/* Do jobs until the queue is closed, then return 0. Return earlier the bytes that the next job needs, if `memory`
 * is too small for it; or -1 after `milliseconds` without a job, so that the caller can check whether one can
 * still come. */
static int64_t work(Queue *q, char *memory, int64_t size_bytes, int64_t milliseconds) {
    int64_t wanted = 0;
    pthread_mutex_lock(&q->lock);
    while (!q->closed) {
        if (q->taken == q->added) {
            struct timespec until = in_ms(milliseconds);
            int late = 0;
            while (!late && !q->closed && q->taken == q->added)
                late = pthread_cond_timedwait(&q->changed, &q->lock, &until);
            if (!late) continue;
            wanted = -1;
            break;
        }
        Job *job = q->jobs[q->taken];
        wanted = space_bytes(job);
        if (wanted > size_bytes) break; /* the job stays in the queue */
        q->taken++;
        pthread_cond_broadcast(&q->changed);
        pthread_mutex_unlock(&q->lock);
        run_local_steps(job, memory);
        pthread_mutex_lock(&q->lock);
        job->done = 1;
        pthread_cond_broadcast(&q->changed);
    }
    if (q->closed) wanted = 0;
    pthread_mutex_unlock(&q->lock);
    return wanted;
}

enum { DONE = 1, ROOM = 2 };

/* Wait at most `milliseconds` until a job is done or fewer than `most` jobs are not taken; return which is true. */
static int32_t wait_for(Queue *q, const Job *job, int64_t most, int64_t milliseconds) {
    struct timespec until = in_ms(milliseconds);
    int32_t found;
    pthread_mutex_lock(&q->lock);
    do {
        found = (job->done ? DONE : 0) | (q->added - q->taken < most ? ROOM : 0);
    } while (!found && !pthread_cond_timedwait(&q->changed, &q->lock, &until));
    pthread_mutex_unlock(&q->lock);
    return found;
}

#endif
