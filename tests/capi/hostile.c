/* Ten thousand calls with wrong arguments: each must give an error code and a message, and leave the engine sound.
 * Then callbacks that resubmit, that cancel, and that free their engine. */
#include "densecore.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned state = 12345;

static unsigned drawn(unsigned below)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
}

static void check(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "wrong: %s (last error: %s)\n", what, GetLastError());
        exit(1);
    }
}

static void never(const char *token, int is_finished, void *user_data)
{
    check(0, "a callback of a request that was refused");
}

static void never_vector(const float *embedding, int size, void *user_data)
{
    check(0, "a callback of an embedding that was refused");
}

static const char *const BAD_TEXTS[] = {NULL, "\xff", "abc\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", ""};
static const char *const BAD_JSON[] = {"", "{", "[]", "7", "{\"max_tokens\": -1}", "{\"max_token\": 1}", "{\"seed\": \"\xff\"}",
                                       "{\"logits_processors\": [1]}", "{\"logit_bias\": {\"x\": 1}}"};
static const char *const BAD_CHATS[] = {NULL, "", "{}", "[1]", "[{\"role\": 1}]", "[\"\xff\"]"};
static const int BAD_COUNTS[] = {0, -1, -2147483647 - 1};
static const int BAD_IDS[] = {-1, 1 << 30, 2147483647, -2147483647 - 1};
#define SOME(list) list[drawn(sizeof list / sizeof *list)]

static int wrong_call(DenseCoreHandle good, DenseCoreHandle bad)
{
    int ids[4] = {1, 2, 3, 4};
    switch (drawn(15)) {
    case 0: return SubmitRequest(bad, "x", 4, never, NULL);
    case 1: return SubmitRequest(good, BAD_TEXTS[drawn(5)], 4, never, NULL);
    case 2: return SubmitRequest(good, "x", SOME(BAD_COUNTS), never, NULL);
    case 3: return SubmitRequest(good, "x", 4, NULL, NULL);
    case 4: return SubmitRequestIds(bad, ids, 4, 4, never, NULL);
    case 5: ids[drawn(4)] = SOME(BAD_IDS); return SubmitRequestIds(good, ids, 4, 4, never, NULL);
    case 6: return SubmitRequestIds(good, ids, drawn(2) ? SOME(BAD_COUNTS) : 2147483647, 4, never, NULL);
    case 7: return SubmitRequestIds(good, NULL, 4, 4, never, NULL);
    case 8: return SubmitEmbeddingRequest(drawn(2) ? bad : good, BAD_TEXTS[drawn(5)], never_vector, NULL);
    case 9: return SubmitRequestWithOptions(good, "x", SOME(BAD_JSON), never, NULL);
    case 10: return SubmitChatRequest(good, SOME(BAD_CHATS), NULL, never, NULL);
    case 11: return CancelRequest(drawn(2) ? bad : good, SOME(BAD_COUNTS));
    case 12: return WaitRequest(drawn(2) ? bad : good, 1 << 30, -1);
    case 13: check(GetMetrics(bad).total_tokens_generated == 0, "metrics of nothing"); FreeEngine(bad); return -1;
    default: return GetDetailedMetrics(bad).num_threads ? 0 : -1;
    }
}

static volatile int count_last, count_failed, resubmitted; /* counted by callbacks, so by one thread at a time */

static void resubmit(const char *token, int is_finished, void *user_data)
{
    if (is_finished && ++resubmitted < 50)
        check(SubmitRequest((DenseCoreHandle)user_data, "import", 2, resubmit, user_data) > 0, "resubmitting");
}

static volatile int its_id;

static void wait_for_itself(const char *token, int is_finished, void *user_data)
{
    while (!its_id) /* SubmitRequest may not have returned yet */
        usleep(1000);
    check(WaitRequest((DenseCoreHandle)user_data, its_id, -1) < 0, "waiting for oneself");
    check(CancelRequest((DenseCoreHandle)user_data, 1 << 20) < 0, "cancelling what does not exist");
}

static void count(const char *token, int is_finished, void *user_data)
{
    count_last += is_finished != 0;
    count_failed += is_finished < 0;
}

static void free_engine(const char *token, int is_finished, void *user_data)
{
    count(token, is_finished, user_data);
    FreeEngine((DenseCoreHandle)user_data);
}

static void callbacks_that_free(const char *path)
{
    static const char endless[] = "{\"max_tokens\": 1000000, \"ignore_eos\": true, \"context_shift\": true}";
    int i, refused = 0;
    DenseCoreHandle engine = InitEngine(path, NULL, 0, -1, 0);
    check(engine != NULL, "another engine");
    check(SubmitRequestWithOptions(engine, "import", endless, free_engine, engine) > 0, "a request that frees");
    for (i = 0; i < 20; i++)
        refused += SubmitRequestWithOptions(engine, "def", endless, count, NULL) < 0; /* it was faster */
    while (count_last + refused < 21) /* all others get their last call */
        usleep(1000);
    check(count_failed == count_last, "all requests of an engine that is freed fail");
    check(WaitRequest(engine, 1, -1) < 0, "the handle is gone");
}

int main(int argc, char **argv)
{
    int i;
    DenseCoreHandle engine, freed, bad[5];
    check(SubmitRequest(NULL, "x", 1, never, NULL) == DENSECORE_ERROR, "a call before any engine");
    check(!InitEngine(NULL, NULL, 0, -1, 0), "no path");
    check(!InitEngine("/nowhere/model.gguf", NULL, 0, -1, 0) && strstr(GetLastError(), "/nowhere"), "no such file");
    check(!InitEngine(argv[0], NULL, 0, -1, 0), "a file that is no model");
    check(!InitEngine("\xff\xfe", NULL, 0, -1, 0), "a path that is not UTF-8");
    check(!InitEngine(argv[1], "something", 0, -1, 0), "reserved");
    check(!InitEngine(argv[1], NULL, -1, -1, 0), "negative threads");
    check(!InitEngine(argv[1], NULL, 0, -2, 0), "a negative node");
    check(!InitEngine(argv[1], NULL, 0, -1, 3) && !InitEngine(argv[1], NULL, 0, -1, -1), "an unknown policy");

    freed = InitEngine(argv[1], NULL, 0, -1, 0);
    check(freed != NULL, "an engine");
    FreeEngine(freed);
    engine = InitEngine(argv[1], NULL, 0, -1, DENSECORE_PINNING_OFF);
    check(engine != NULL && engine != freed, "a new handle");
    bad[0] = NULL;
    bad[1] = freed;
    bad[2] = (DenseCoreHandle)&state;
    bad[3] = (DenseCoreHandle)UINTPTR_MAX;
    for (i = 0; i < 10000; i++) {
        int code;
        bad[4] = (DenseCoreHandle)((uintptr_t)drawn(1u << 24) << 1); /* even: handles are odd */
        code = wrong_call(engine, SOME(bad));
        check(code < 0 && code >= DENSECORE_TIMEOUT, "an error code");
        check(*GetLastError() != '\0', "a message");
    }

    check(SubmitRequest(engine, "import", 2, resubmit, engine) > 0, "a request that resubmits");
    while (resubmitted < 50)
        WaitRequest(engine, 1 << 30, 0);
    its_id = SubmitRequest(engine, "import", 4, wait_for_itself, engine);
    check(WaitRequest(engine, its_id, -1) == DENSECORE_OK, "the engine is sound");
    check(GetDetailedMetrics(engine).kv_cache_blocks_used == 0, "no block is lost");
    FreeEngine(engine);
    callbacks_that_free(argv[1]);
    puts("all as it should be");
    return 0;
}
