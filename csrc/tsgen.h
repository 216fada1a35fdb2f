/* The C ABI of tsgen: a saved model without Python or PyTorch; tsgen_ops.h has the ops.
 *
 *   tsgen_model* model;
 *   if (tsgen_model_load("models/cbf", TSGEN_CPU, 0, &model) != TSGEN_OK)
 *     puts(tsgen_last_error());
 *   tsgen_generate(model, 1000, NULL, NULL, 7, NULL, 0, series);
 *   tsgen_model_free(model);
 *
 * Every function that can fail returns a tsgen_status; tsgen_last_error() then holds a text of the
 * calling thread that names the argument, what was wanted and what came. After an error the
 * contents of output arrays mean nothing; nothing else has changed.
 *
 * Arrays are dense, row by row, and the caller's: nothing is kept after a call returns. Sizes are
 * written behind the names: series (n, C, L) is n x C x L numbers, null will do for none. n_threads
 * is the most threads to use, 0 for as many as the machine has; results do not depend on it, to the
 * bit. All functions may be called from many threads at once, also with one model; tsgen_model_free
 * alone has to wait until no other call uses it. A child of fork() may go on calling, but for
 * models on a GPU.
 *
 * The ABI grows by functions, by enumerators and at the end of structures, which hold their own
 * size; anything else raises TSGEN_ABI_VERSION and the library's soname.
 */
#ifndef TSGEN_H
#define TSGEN_H

#include <stddef.h>
#include <stdint.h>

#define TSGEN_VERSION "0.1.0"
#define TSGEN_ABI_VERSION 1

#ifndef TSGEN_API
#define TSGEN_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t tsgen_status;
enum {
  TSGEN_OK = 0,
  TSGEN_BAD_ARGUMENT = 1, /* a value that cannot be used */
  TSGEN_BAD_FILE = 2,     /* missing, damaged, hostile, or of another version */
  TSGEN_NOT_FINITE = 3,   /* the model's numbers are NaN or infinite */
  TSGEN_UNSUPPORTED = 4,  /* what this library was not built for */
  TSGEN_NO_MEMORY = 5,
  TSGEN_FAILED = 6 /* anything else */
};

/* What tsgen_last_error() had to say lasts until the thread's next call; never null. */
TSGEN_API const char* tsgen_last_error(void);

/* The library's own, to be compared with the macros that a program was compiled with. */
TSGEN_API const char* tsgen_version(void);
TSGEN_API int32_t tsgen_abi_version(void);

/* The instruction set in use: "portable", "avx2" or "avx512". */
TSGEN_API const char* tsgen_instruction_set(void);

/* Use none better than this one from now on, for tests. A model keeps what it was loaded with. */
TSGEN_API tsgen_status tsgen_limit_instruction_set(const char* most);

/* ---- Models ------------------------------------------------------------------------------- */

typedef int32_t tsgen_device;
enum {
  TSGEN_CPU = 0,
  TSGEN_CUDA = 1 /* the first GPU; TSGEN_CUDA + i is the one i places behind it */
};

typedef struct tsgen_model tsgen_model;

/* Reads a folder of config.json and model.safetensors, as tsgen's Model.save writes it. Nothing in
 * it is executed; sizes are checked before anything is allocated, and the weights' sha256.
 *
 * On a GPU everything is computed in float32. The weights stay in its memory until the model is
 * freed, and so does what calls have worked with, at most a quarter of what was free or 4 GiB for
 * each call that runs at once. A call has a CUDA stream of its own, waits for it, and leaves the
 * calling thread's current device as it was; its arrays are in the host's memory as on the CPU. It
 * cannot be used in a child of fork().
 *
 * folder:  UTF-8
 * device:  TSGEN_UNSUPPORTED, with the reason, where the library has no kernels for it or the
 *          machine no such GPU
 * model:   to be freed with tsgen_model_free; null after an error
 */
TSGEN_API tsgen_status tsgen_model_load(const char* folder, tsgen_device device, int32_t n_threads,
                                        tsgen_model** model);

/* Null is allowed. No other call may be using the model. */
TSGEN_API void tsgen_model_free(tsgen_model* model);

typedef struct tsgen_info {
  size_t size; /* sizeof(tsgen_info), set by the caller */
  int64_t n_channels;
  int64_t length;      /* samples of a series */
  int64_t n_classes;   /* 0 for a model without labels */
  int64_t n_bands;     /* 1 or 2, the low one first */
  int64_t n_tokens[2]; /* of each band; 0 where there is none */
  int64_t n_codes[2];
} tsgen_info;

TSGEN_API tsgen_status tsgen_model_info(const tsgen_model* model, tsgen_info* info);

/* The name of a class, UTF-8, as long as the model lives; null outside 0 to n_classes - 1. */
TSGEN_API const char* tsgen_class_name(const tsgen_model* model, int64_t class_id);

/* The class of that name. */
TSGEN_API tsgen_status tsgen_class_id(const tsgen_model* model, const char* name,
                                      int64_t* class_id);

typedef int32_t tsgen_schedule;
enum {
  TSGEN_COSINE = 0,
  TSGEN_LINEAR = 1,
  TSGEN_SQUARE = 2,
  TSGEN_CUBIC = 3,
  TSGEN_SQRT = 4,
  TSGEN_LOG = 5,
  TSGEN_EXP = 6
};

/* How tokens are drawn, see docs/model.md. Begin with the model's own: tsgen_settings_of. */
typedef struct tsgen_settings {
  size_t size;      /* sizeof(tsgen_settings), set by the caller */
  int64_t steps[2]; /* of each band, 1 to 65535 */
  double temperature;
  double choice_temperature[2]; /* of each band: noise on the confidence */
  double guidance;              /* 1 follows the class, above it exaggerates it */
  tsgen_schedule schedule;
  int64_t top_k; /* 0: all */
  double top_p;  /* above 0, at most 1 */
} tsgen_settings;

TSGEN_API tsgen_status tsgen_settings_of(const tsgen_model* model, tsgen_settings* settings);

/* New series, the same bits as Python's model.generate on the same machine, and on a GPU as its
 * engine "cuda_cpp" draws them.
 *
 * n:          how many
 * index:      (n) absolute sample indices, 0 to 2^62 - 1, or null for 0 to n - 1: sample i is the
 *             same whatever is drawn with it
 * class_id:   (n) of each, -1 for none; or null for none at all
 * seed:       sample i depends on (model, seed, i, its class, settings) alone
 * settings:   or null for the model's own
 * series:     (n, n_channels, length), in the units of the training data
 */
TSGEN_API tsgen_status tsgen_generate(const tsgen_model* model, int64_t n, const int64_t* index,
                                      const int64_t* class_id, uint64_t seed,
                                      const tsgen_settings* settings, int32_t n_threads,
                                      float* series);

/* Token ids of series.
 *
 * series:  (n, n_channels, length) finite, in the units of the training data
 * ids:     (n, tokens of all bands), the low band's first
 */
TSGEN_API tsgen_status tsgen_encode(const tsgen_model* model, int64_t n, const float* series,
                                    int32_t n_threads, int64_t* ids);

/* Series of token ids.
 *
 * ids:     (n, tokens of all bands), the low band's first, as tsgen_encode gives them
 * series:  (n, n_channels, length), in the units of the training data
 */
TSGEN_API tsgen_status tsgen_decode(const tsgen_model* model, int64_t n, const int64_t* ids,
                                    int32_t n_threads, float* series);

#ifdef __cplusplus
}
#endif

#endif
