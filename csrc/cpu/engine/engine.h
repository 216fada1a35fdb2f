// The CPU engine: both bands' decoding loops and the decoder, block by block of sequences.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/decoder.h"
#include "engine/prior.h"

namespace tsgen::cpu {

// What one band of a request reads and writes; n sequences.
struct BandRequest {
  Settings settings;
  const int64_t* plan;  // (n, steps)
  int64_t* ids;         // (n, N) in and out
};

struct EngineRequest {
  int64_t n;
  const int64_t *index, *class_id;
  std::vector<BandRequest> band;
  float* series;  // (n, C, L), or null for tokens alone
};

enum class Outcome : int { done, stopped, not_finite };

class Engine {
 public:
  Engine();

  // The bands in their order; `flat` holds what pack_prior or pack_decoder reads, n numbers.
  // The index arrays are (n_columns) and (N, 2), (L): see PriorWeights and DecoderWeights.
  void add_prior(const PriorSizes& sizes, const float* flat, int64_t n, const int64_t* column_token,
                 const int64_t* place_source);
  void add_decoder(const DecoderSizes& sizes, const float* flat, int64_t n,
                   const int64_t* sample_frame);

  // stop(asked, thread) is asked now and then, by thread 0 alone; true ends the work.
  Outcome sample(const EngineRequest& request, int64_t n_threads, Stop* stop,
                 const void* asked) const;
  void decode(const std::vector<const int64_t*>& ids, int64_t n, float* series,
              int64_t n_threads) const;

 private:
  struct PriorBand {
    PriorWeights weights;
    std::vector<LayerWeights> layers;
    std::vector<float> memory;
    std::vector<int64_t> column_token, place_source;
  };
  struct DecoderBand {
    DecoderWeights weights;
    std::vector<ResBlockWeights> blocks;
    std::vector<float> memory;
    std::vector<int64_t> sample_frame;
  };

  std::vector<float> starts(const PriorBand& band, const EngineRequest& request,
                            int64_t n_threads) const;
  int64_t scratch_size(int64_t n) const;

  LayOutPrior* lay_out_prior_;
  PackPrior* pack_prior_;
  PriorScratch* prior_scratch_;
  PriorStart* prior_start_;
  PriorDecode* prior_decode_;
  LayOutDecoder* lay_out_decoder_;
  PackDecoder* pack_decoder_;
  DecoderScratch* decoder_scratch_;
  Decode* decode_;
  int64_t lanes_;
  std::vector<std::unique_ptr<PriorBand>> priors_;
  std::vector<std::unique_ptr<DecoderBand>> decoders_;
};

}  // namespace tsgen::cpu
