/* Eight threads submit 500 requests to one engine; some cancel, some wait. Each is called back for the last time once. */
#include "densecore.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_THREADS = 8, N_REQUESTS = 500, MAX_TOKENS = 8 };

typedef struct {
    int id, last_calls, code, length, is_cancelled;
} Request;

static DenseCoreHandle engine;
static Request requests[N_REQUESTS];

static void on_token(const char *token, int is_finished, void *user_data)
{
    Request *request = (Request *)user_data;
    request->length += (int)strlen(token);
    if (is_finished) {
        request->last_calls++;
        request->code = is_finished;
    }
}

static void *submit_and_wait(void *argument)
{
    int first = (int)(size_t)argument, i;
    char prompt[64];
    for (i = first; i < N_REQUESTS; i += N_THREADS) {
        snprintf(prompt, sizeof prompt, "def function_%d(argument):\n", i);
        requests[i].id = SubmitRequest(engine, prompt, MAX_TOKENS, on_token, &requests[i]);
        if (requests[i].id <= 0) {
            fprintf(stderr, "request %d: %s\n", i, GetLastError());
            exit(1);
        }
        requests[i].is_cancelled = i % 50 == 49;
        if (requests[i].is_cancelled)
            CancelRequest(engine, requests[i].id);
    }
    for (i = first; i < N_REQUESTS; i += N_THREADS)
        WaitRequest(engine, requests[i].id, -1);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[N_THREADS];
    DetailedMetrics metrics;
    int i, complete = 0;
    engine = InitEngine(argv[1], NULL, 0, -1, DENSECORE_PINNING_SCATTER);
    if (!engine) {
        fprintf(stderr, "%s\n", GetLastError());
        return 1;
    }
    for (i = 0; i < N_THREADS; i++)
        pthread_create(&threads[i], NULL, submit_and_wait, (void *)(size_t)i);
    for (i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    for (i = 0; i < N_REQUESTS; i++) {
        int as_asked = requests[i].is_cancelled ? requests[i].code != 0 : requests[i].code == 1 && requests[i].length > 0;
        complete += requests[i].last_calls == 1 && as_asked;
    }
    metrics = GetDetailedMetrics(engine);
    for (i = 0; i < 500 && metrics.active_requests + metrics.waiting_requests > 0; i++) {
        WaitRequest(engine, 1, 10); /* cancelled ones leave at the next step */
        metrics = GetDetailedMetrics(engine);
    }
    printf("%d complete, %d active, %lld blocks used\n", complete, metrics.active_requests, metrics.kv_cache_blocks_used);
    FreeEngine(engine);
    return 0;
}
