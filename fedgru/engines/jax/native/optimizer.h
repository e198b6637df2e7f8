/* Adam, or plain gradient descent. */
#ifndef FEDGRU_OPTIMIZER_H
#define FEDGRU_OPTIMIZER_H

#include "space.h"

/* The optimizer's step for a vector of weights. Source: as fedgru/models/optimizers.py; the proximal term is that
 * of fedgru/algorithms/fed_prox.py. */
INLINE void adjust(const Space *s, Slots slots, int64_t at, vec gradient, int fresh) {
    vec w = load(slots.w + at);
    if (slots.received) gradient += s->job->prox_mu * (w - load(slots.received + at));
    if (slots.offset) gradient += load(slots.offset + at);
    if (!s->job->adam) {
        store(slots.w + at, w - s->job->client_lr * gradient);
        return;
    }
    vec m = fresh ? (vec){0} : load(slots.m + at), v = fresh ? (vec){0} : load(slots.v + at);
    m += 0.1f * (gradient - m);
    v += 0.001f * (gradient * gradient - v);
    if (!s->last) store(slots.m + at, m), store(slots.v + at, v);
    store(slots.w + at, w - s->rate * m * reciprocal(square_root(v) + 1e-7f));
}

#endif
