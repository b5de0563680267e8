/* How alike are two texts? The cosine of the angle between their embeddings.
 *
 *   cc embedding.c $(densecore capi --cflags --libs) -lm -o embedding
 *   ./embedding model.gguf "a cat on a mat" "a dog on a rug" */
#include <densecore.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An embedding that is kept beyond its callback. */
typedef struct {
    float *values;
    int size;
} Vector;

static void on_embedding(const float *embedding, int size, void *user_data)
{
    Vector *vector = (Vector *)user_data;
    if (!embedding) /* the request failed: WaitRequest tells the code */
        return;
    vector->values = (float *)malloc((size_t)size * sizeof(float));
    if (vector->values) {
        memcpy(vector->values, embedding, (size_t)size * sizeof(float));
        vector->size = size;
    }
}

static int embed(DenseCoreHandle engine, const char *text, Vector *vector)
{
    int id = SubmitEmbeddingRequest(engine, text, on_embedding, vector);
    int code = id < 0 ? id : WaitRequest(engine, id, -1);
    if (code < 0)
        fprintf(stderr, "%s\n", GetLastError());
    return code;
}

int main(int argc, char **argv)
{
    Vector first = {NULL, 0}, second = {NULL, 0};
    double cosine = 0;
    int i, failed;
    DenseCoreHandle engine = argc == 4 ? InitEngine(argv[1], NULL, 0, -1, DENSECORE_PINNING_SCATTER) : NULL;
    if (!engine) {
        fprintf(stderr, "%s\n", argc == 4 ? GetLastError() : "usage: embedding model.gguf TEXT TEXT");
        return 1;
    }
    failed = embed(engine, argv[2], &first) || embed(engine, argv[3], &second);
    if (!failed) {
        for (i = 0; i < first.size; i++) /* both have length 1 */
            cosine += (double)first.values[i] * second.values[i];
        printf("%d dimensions, cosine %.4f\n", first.size, cosine);
    }
    free(first.values);
    free(second.values);
    FreeEngine(engine);
    return failed ? 1 : 0;
}
