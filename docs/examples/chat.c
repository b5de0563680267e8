/* A chat in the terminal, with answers that appear as they are generated.
 *
 *   cc chat.c $(densecore capi --cflags --libs) -o chat
 *   ./chat model.gguf            (or: ./chat model.gguf 50, for answers of at most 50 tokens)
 *
 * Each line of input is a message; an empty one, or Ctrl-D, ends the chat. */
#include <densecore.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_SIZE = 4096 };

/* A text that grows. */
typedef struct {
    char *text;
    size_t length, room;
} Buffer;

static void append(Buffer *buffer, const char *text)
{
    size_t length = strlen(text);
    if (buffer->length + length + 1 > buffer->room) {
        buffer->room = 2 * (buffer->length + length + 1);
        buffer->text = (char *)realloc(buffer->text, buffer->room);
        if (!buffer->text) {
            perror("chat");
            exit(1);
        }
    }
    memcpy(buffer->text + buffer->length, text, length + 1);
    buffer->length += length;
}

/* Append what goes between the quotes of a JSON string. */
static void append_escaped(Buffer *buffer, const char *text)
{
    char escaped[8];
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            snprintf(escaped, sizeof escaped, "\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)*text);
        else
            snprintf(escaped, sizeof escaped, "%c", *text);
        append(buffer, escaped);
    }
}

/* Append a message to a JSON array that is still open. */
static void append_message(Buffer *messages, const char *role, const char *content)
{
    append(messages, messages->length ? ", {\"role\": \"" : "[{\"role\": \"");
    append(messages, role);
    append(messages, "\", \"content\": \"");
    append_escaped(messages, content);
    append(messages, "\"}");
}

/* Called on a thread of the engine; `user_data` collects the answer. */
static void on_token(const char *token, int is_finished, void *user_data)
{
    fputs(token, stdout);
    fflush(stdout);
    append((Buffer *)user_data, token);
    if (is_finished < 0)
        fprintf(stderr, "\nthe answer failed with code %d\n", is_finished);
}

static int answer(DenseCoreHandle engine, Buffer *messages, int max_tokens)
{
    Buffer text = {NULL, 0, 0}, request = {NULL, 0, 0};
    char options[80];
    int id, code;
    snprintf(options, sizeof options, "{\"max_tokens\": %d, \"temperature\": 0}", max_tokens);
    append(&text, "");
    append(&request, messages->text);
    append(&request, "]");
    id = SubmitChatRequest(engine, request.text, options, on_token, &text);
    code = id < 0 ? id : WaitRequest(engine, id, -1);
    if (code < 0)
        fprintf(stderr, "%s\n", GetLastError());
    else
        append_message(messages, "assistant", text.text);
    printf("\n");
    free(text.text);
    free(request.text);
    return code;
}

int main(int argc, char **argv)
{
    Buffer messages = {NULL, 0, 0};
    char line[LINE_SIZE];
    int code = DENSECORE_OK, max_tokens = argc > 2 ? atoi(argv[2]) : 400;
    DenseCoreHandle engine = argc > 1 ? InitEngine(argv[1], NULL, 0, -1, DENSECORE_PINNING_SCATTER) : NULL;
    if (!engine) {
        fprintf(stderr, "%s\n", argc > 1 ? GetLastError() : "usage: chat model.gguf [MAX_TOKENS]");
        return 1;
    }
    while (code == DENSECORE_OK && fgets(line, sizeof line, stdin) && *line != '\n') {
        line[strcspn(line, "\n")] = '\0';
        append_message(&messages, "user", line);
        code = answer(engine, &messages, max_tokens);
    }
    free(messages.text);
    FreeEngine(engine);
    return code == DENSECORE_OK ? 0 : 1;
}
