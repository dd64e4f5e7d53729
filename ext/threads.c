/* Threads for the length of one call: nothing to keep, nothing to fork wrongly. */
#include "frame.h"

#include <pthread.h>
#include <signal.h>

#define MOST 64

typedef struct {
    void (*work)(void *context, int thread);
    void *context;
    int thread;
} task;

static void *run(void *argument)
{
    task *t = argument;
    t->work(t->context, t->thread);
    return NULL;
}

void ps_in_threads(int threads, void (*work)(void *context, int thread), void *context)
{
    pthread_t ids[MOST];
    task tasks[MOST];
    int made = 0;
    if (threads > MOST)
        threads = MOST;
    if (threads > 1) {
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        for (; made < threads - 1; made++) {
            tasks[made] = (task){work, context, made};
            if (pthread_create(&ids[made], NULL, run, &tasks[made]) != 0)
                break;
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    work(context, threads > 1 ? threads - 1 : 0);
    for (int i = 0; i < made; i++)
        pthread_join(ids[i], NULL);
}
