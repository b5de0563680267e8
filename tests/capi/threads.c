/* Eight threads submit 500 requests to one engine; some are cancelled. Each is called back for the last time once.
 *
 * Then again with other engines: under AddressSanitizer, which counts what is allocated, nothing may be left over. */
#include "densecore.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_THREADS = 8, N_REQUESTS = 500, N_ROUNDS = 4, MAX_TOKENS = 8 };

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

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

/* A step that draws for one request runs other code than one for several: it is loaded here, in the first round. */
static void run_alone(void)
{
    Request request = {0, 0, 0, 0, 0};
    WaitRequest(engine, SubmitRequest(engine, "import", 2, on_token, &request), -1);
}

static DetailedMetrics metrics_at_rest(void)
{
    DetailedMetrics metrics = GetDetailedMetrics(engine);
    while (metrics.active_requests + metrics.waiting_requests > 0) { /* cancelled ones leave at the next step */
        usleep(1000);
        metrics = GetDetailedMetrics(engine);
    }
    return metrics;
}

/* Submit all requests, and count those that ended as they should. */
static int run_round(void)
{
    pthread_t threads[N_THREADS];
    int i, complete = 0;
    memset(requests, 0, sizeof requests);
    for (i = 0; i < N_THREADS; i++)
        pthread_create(&threads[i], NULL, submit_and_wait, (void *)(size_t)i);
    for (i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    for (i = 0; i < N_REQUESTS; i++) {
        Request *request = &requests[i];
        int is_whole = request->code == 1 && request->length > 0;
        complete += request->last_calls == 1 && (request->is_cancelled ? request->code != 0 : is_whole);
    }
    return complete;
}

int main(int argc, char **argv)
{
    DetailedMetrics metrics;
    size_t allocated = 0, before;
    int i, complete = 0;
    for (i = 0; i < N_ROUNDS; i++) {
        engine = InitEngine(argv[1], NULL, 0, -1, DENSECORE_PINNING_SCATTER);
        if (!engine) {
            fprintf(stderr, "%s\n", GetLastError());
            return 1;
        }
        run_alone();
        complete = run_round();
        metrics = metrics_at_rest();
        FreeEngine(engine);
        before = allocated;
        if (__sanitizer_get_current_allocated_bytes)
            allocated = __sanitizer_get_current_allocated_bytes();
        printf("%d complete, %lld blocks used, %ld bytes more\n", complete, metrics.kv_cache_blocks_used,
               (long)(allocated - before));
    }
    return 0;
}
