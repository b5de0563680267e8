/* densecore.h - large language models on CPUs, from C and C++.
 *
 *   DenseCoreHandle engine = InitEngine("model.gguf", NULL, 0, -1, DENSECORE_PINNING_SCATTER);
 *   int request = SubmitRequest(engine, "Once upon a time", 100, on_token, NULL);
 *   WaitRequest(engine, request, -1);
 *   FreeEngine(engine);
 *
 * The engine runs in a Python interpreter inside of this process, which the first InitEngine starts (or joins, where
 * the process is Python already). It keeps its hands off signal handlers, and holds no lock while your code runs. It sets
 * LC_CTYPE to what the environment says, as setlocale(LC_CTYPE, "") does.
 *
 * Every function may be called from any thread, and from callbacks. Handles are numbers that are looked up on each
 * call: NULL, freed and invented ones give an error. So does every other wrong argument, as far as it can be seen:
 * GetLastError says what was wrong. Texts are UTF-8, and end with a NUL; a path is taken byte by byte, as open() does.
 */
#ifndef DENSECORE_H
#define DENSECORE_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define DENSECORE_API __attribute__((visibility("default")))
#else
#define DENSECORE_API
#endif

#define DENSECORE_VERSION "0.1.0"

/* An engine. Never dereferenced, and never used again after FreeEngine. */
typedef struct DenseCoreEngine *DenseCoreHandle;

/* Codes. What functions return is 0, or a request's number, or one of the negative ones. */
enum {
    DENSECORE_OK = 0,
    DENSECORE_ERROR = -1,         /* anything that has no code of its own; also: the request was cancelled */
    DENSECORE_OUT_OF_MEMORY = -2,
    DENSECORE_INVALID_MODEL = -3, /* the file is missing, broken, or of a kind that is not supported */
    DENSECORE_TIMEOUT = -4
};

/* Where threads run: spread over cores for the most memory bandwidth; packed on cores that share caches; anywhere. */
enum {
    DENSECORE_PINNING_SCATTER = 0,
    DENSECORE_PINNING_COMPACT = 1,
    DENSECORE_PINNING_OFF = 2
};

/* Gets the text of a request piece by piece: whole characters, valid until the callback returns.
 *
 * is_finished is 0 while more follows. The last call of each accepted request has an empty text, and is_finished 1, or
 * a negative code if the request failed or was cancelled. It comes before WaitRequest or FreeEngine return.
 *
 * Callbacks of an engine come one at a time, from a thread of that engine: not from yours, and maybe before
 * SubmitRequest has returned. They may take their time, submit and cancel requests, and free the engine; only the
 * callbacks of the same engine wait meanwhile. No C++ exception may leave one. */
typedef void (*TokenCallback)(const char *token, int is_finished, void *user_data);

/* Gets the embedding of a text once: size numbers, valid until the callback returns; NULL and 0 if the request failed
 * or was cancelled, of which WaitRequest tells more. Otherwise as TokenCallback. */
typedef void (*EmbeddingCallback)(const float *embedding, int size, void *user_data);

/* ---- engines ---- */

/* Load a GGUF file and get ready. NULL if that fails.
 *
 * reserved: NULL. threads: 0 takes what the machine, affinity and cgroup quota allow. numa_node_id: run on, and take
 * memory from, this NUMA node; -1 uses all. pinning_policy: DENSECORE_PINNING_... */
DENSECORE_API DenseCoreHandle InitEngine(const char *model_path, const char *reserved, int threads, int numa_node_id,
                                         int pinning_policy);

/* End all requests of an engine, with their last callbacks, and free what it holds. Waits for a callback that runs.
 *
 * Called in a callback of the same engine it returns at once: the last callbacks of other requests follow. Two engines
 * whose callbacks free each other at the same time would wait for each other. */
DENSECORE_API void FreeEngine(DenseCoreHandle handle);

/* ---- requests: a positive number, or a negative code ---- */

/* Continue a text greedily: the most probable token at each step, as DenseCore.generate(prompt, temperature=0) does. */
DENSECORE_API int SubmitRequest(DenseCoreHandle handle, const char *prompt, int max_tokens, TokenCallback callback,
                                void *user_data);

/* As SubmitRequest, after n_tokens token ids, which are taken as they are. */
DENSECORE_API int SubmitRequestIds(DenseCoreHandle handle, const int *tokens, int n_tokens, int max_tokens,
                                   TokenCallback callback, void *user_data);

/* As SubmitRequest, with the fields of Python's GenerationConfig as a JSON object, and its defaults for the others:
 * "{\"temperature\": 0.7, \"seed\": 1, \"json_mode\": true}". NULL takes all defaults. */
DENSECORE_API int SubmitRequestWithOptions(DenseCoreHandle handle, const char *prompt, const char *options_json,
                                           TokenCallback callback, void *user_data);

/* Answer a conversation, a JSON array of messages, through the model's chat template; options as above:
 * "[{\"role\": \"user\", \"content\": \"Hello!\"}]". */
DENSECORE_API int SubmitChatRequest(DenseCoreHandle handle, const char *messages_json, const char *options_json,
                                    TokenCallback callback, void *user_data);

/* Compute the embedding of a text, by the pooling that the file names: its length is 1. */
DENSECORE_API int SubmitEmbeddingRequest(DenseCoreHandle handle, const char *prompt, EmbeddingCallback callback,
                                         void *user_data);

/* End a request; its last callback has a negative code. 0, also for a request that has ended before. */
DENSECORE_API int CancelRequest(DenseCoreHandle handle, int request_id);

/* Wait until a request has ended and its last callback has returned: 0, or the code that it failed with.
 *
 * timeout_ms: give up after so many milliseconds, with DENSECORE_TIMEOUT, while the request goes on; negative waits
 * without end. In a callback of the same engine, which would wait for itself, this is an error unless it has ended. */
DENSECORE_API int WaitRequest(DenseCoreHandle handle, int request_id, int timeout_ms);

/* ---- metrics ---- */

typedef struct {
    float requests_per_second; /* that ended, over the last minute */
    float tokens_per_second;   /* decode rate of a request, over the last minute */
    int active_requests;
    long total_tokens_generated;
} DenseCoreMetrics;

/* What Python's get_metrics() gives, by the same names. Rates are those of the last minute; percentiles those of the
 * last 4096 values; times are in seconds. */
typedef struct {
    double requests_per_second;        /* that ended */
    double tokens_per_second;          /* decode rate of a request */
    double computed_tokens_per_second; /* of prompts and output, while the engine computes */

    /* Requests since the start. */
    long long requests_total;
    long long requests_completed;
    long long requests_failed;
    long long timeouts_total; /* of those that failed */
    long long preemptions_total;

    /* Tokens since the start. */
    long long prompt_tokens_total;
    long long prompt_tokens_cached_total; /* of these, found in the KV cache */
    long long total_tokens_generated;

    /* The queue now. */
    int active_requests;
    int waiting_requests;

    /* Latency: until the first token, between tokens, in the queue, of a whole request. */
    double time_to_first_token_seconds_p50;
    double time_to_first_token_seconds_p95;
    double time_to_first_token_seconds_p99;
    double inter_token_seconds_p50;
    double inter_token_seconds_p95;
    double inter_token_seconds_p99;
    double queue_seconds_p50;
    double queue_seconds_p95;
    double queue_seconds_p99;
    double request_seconds_p50;
    double request_seconds_p95;
    double request_seconds_p99;

    /* Requests in a step. */
    double batch_size_p50;
    double batch_size_p95;
    double batch_size_p99;

    /* The KV cache now. */
    double kv_cache_usage_percent;
    long long kv_cache_blocks_total;
    long long kv_cache_blocks_used;
    long long kv_cache_blocks_free;
    long long kv_cache_blocks_cached; /* free ones that keep their content */
    long long kv_cache_bytes;
    int num_threads;
} DetailedMetrics;

/* All zero where the handle is wrong. */
DENSECORE_API DenseCoreMetrics GetMetrics(DenseCoreHandle handle);
DENSECORE_API DetailedMetrics GetDetailedMetrics(DenseCoreHandle handle);

/* ---- errors and version ---- */

/* What went wrong in the last call of this thread that failed; "" before the first. Valid until the next one fails. */
DENSECORE_API const char *GetLastError(void);

/* Version of the library that is linked; DENSECORE_VERSION is that of the header. */
DENSECORE_API const char *DenseCoreVersion(void);

#ifdef __cplusplus
}
#endif

#endif
