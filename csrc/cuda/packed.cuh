// Weights as operands of tensor cores, in the order in which lanes load them.
//
// Float16 has 11 bits, so a weight, times a power of two of its output channel that makes the most of float16's range,
// is two terms: high + low, 22 bits. So each octet of a patch (slots.cuh) is multiplied twice, and a k16 step of an MMA
// takes two octets: pairs of them with their low terms first, since small products are; then an octet without a
// partner, which is multiplied by both of its terms in one step; then the pairs with their high terms. Of npr,
//
//     step      k = 0..7              k = 8..15
//      0     octet 0, low          octet 1, low
//      1     octet 2, low          octet 2, high
//      2     octet 0, high         octet 1, high
//
// so there are as many steps as octets. (The stem takes an octet without a partner first.)
#pragma once

#include "cuda/patches.cuh"

namespace npr::cuda {

// Output channels are taken in groups of 32, four MMA tiles of eight, dealt out by spread().
constexpr int kGroup = 32, kGroupTiles = kGroup / 8;

enum class Term { low, high };

// The steps that multiply so many octets, and the operands that they share: pairs of octets, and the last one alone.
template <int kOctets>
struct Steps {
  static constexpr int kPairs = kOctets / 2, kAlone = kOctets % 2;
  static constexpr int kCount = 2 * kPairs + kAlone, kOperands = kPairs + kAlone;

  struct Place {
    int step, half;
  };
  NPR_HOST_DEVICE static constexpr Place of(int octet, Term term) {
    if (kAlone && octet == kOctets - 1) return {kPairs, term == Term::high};
    return {octet / 2 + (term == Term::high ? kPairs + kAlone : 0), octet % 2};
  }
  NPR_HOST_DEVICE static constexpr int operand(int step) { return step < kOperands ? step : step - kOperands; }
  // Whether a step is left out if weights have only one term.
  NPR_HOST_DEVICE static constexpr bool low(int step) { return step < kPairs; }
};

// One lane's words of a group, [step][tile][half of k], are contiguous; they are B fragments of tile after tile, or A
// fragments of two tiles.
template <int kOctets>
struct PackedWords {
  static constexpr int kCount = Steps<kOctets>::kCount * kGroupTiles * 2;
  NPR_HOST_DEVICE static constexpr int at(int step, int tile, int half) {
    return (step * kGroupTiles + tile) * 2 + half;
  }
};

// `kRun` is as in spread().
template <int kResidual, int kRun>
struct PackedWeights {
  static constexpr int kOctets = Slots<kResidual>::kOctets;
  using Words = PackedWords<kOctets>;
  static constexpr int kGroupWords = kWarp * Words::kCount, kGroupNumbers = 2 * kGroupWords;

  uint32_t* words;  // [groups][32 lanes][Words::kCount]
  float* unscale;   // [groups * kGroup]: undoes the power of two
  float* shift;     // [groups * kGroup]
  float* start;     // [groups][4 lanes][tiles][4]: shift / unscale as accumulators to start from, equal in g and g + 8

  static int64_t groups(int64_t outputs) { return 2 * ceil_div(outputs, 2 * kGroup); }  // kernels take them in pairs
  static int64_t channels(int64_t outputs) { return groups(outputs) * kGroup; }
  static int64_t bytes(int64_t outputs) { return groups(outputs) * (kGroupWords + 4 * kGroup) * 4; }
  static PackedWeights at(void* workspace, int64_t outputs) {
    uint32_t* words = static_cast<uint32_t*>(workspace);
    float* unscale = reinterpret_cast<float*>(words + groups(outputs) * kGroupWords);
    return {words, unscale, unscale + channels(outputs), unscale + 2 * channels(outputs)};
  }

  // The tile and the index in it of an output of a group: the inverse of spread().
  NPR_HOST_DEVICE static constexpr int tile_of(int output) {
    return output / (4 * kRun) * (kRun / 2) + output % kRun / 2;
  }
  NPR_HOST_DEVICE static constexpr int index_of(int output) { return output % (4 * kRun) / kRun * 2 + output % 2; }

  // The number of the group's that multiplies a slot of the patch for an output: what MMA fragments are, as ptx.cuh
  // draws them, is here alone.
  NPR_HOST_DEVICE static constexpr int index(int output, int slot, Term term) {
    const auto [step, half] = Steps<kOctets>::of(slot / kOctet, term);
    const int lane = 4 * index_of(output) + slot % kOctet / 2;
    return (lane * Words::kCount + Words::at(step, tile_of(output), half)) * 2 + slot % 2;
  }

  // Whether every number lies where a lane that loads its words in order multiplies it as it must be.
  static constexpr bool round_trip() {
    int places = 0;
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int step = 0; step < Steps<kOctets>::kCount; ++step) {
        for (int tile = 0; tile < kGroupTiles; ++tile) {
          for (int half = 0; half < 2; ++half) {
            const int operand = Steps<kOctets>::operand(step), word = Words::at(step, tile, half);
            const bool alone = Steps<kOctets>::kAlone && operand == Steps<kOctets>::kPairs;
            const int octet = alone ? kOctets - 1 : 2 * operand + half;
            const Term term = (alone ? half == 1 : !Steps<kOctets>::low(step)) ? Term::high : Term::low;
            for (int i = 0; i < 2; ++i, ++places) {
              const int output = spread<kRun>(tile, lane / 4), slot = octet * kOctet + 2 * (lane % 4) + i;
              if (index(output, slot, term) != (lane * Words::kCount + word) * 2 + i) return false;
            }
          }
        }
      }
    }
    return places == 2 * kGroup * Slots<kResidual>::kSlots;
  }

  __device__ void store_start(int64_t output, float value) const {
    const int of_group = output % kGroup, index = index_of(of_group);
    float* to = start + ((output / kGroup * 4 + index / 2) * kGroupTiles + tile_of(of_group)) * 4 + index % 2;
    to[0] = to[2] = value;
  }

  // What this lane's accumulators of a tile start from.
  __device__ const float* start_of(int64_t group, int tile) const {
    return start + ((group * 4 + lane_index() % 4) * kGroupTiles + tile) * 4;
  }
};

static_assert(PackedWeights<0, 4>::round_trip() && PackedWeights<0, 8>::round_trip());
static_assert(PackedWeights<1, 4>::round_trip() && PackedWeights<1, 8>::round_trip());
static_assert(PackedWeights<2, 4>::round_trip() && PackedWeights<2, 8>::round_trip());

// The words of a group that this lane multiplies.
template <int kOctets>
struct WeightFragments {
  using Words = PackedWords<kOctets>;
  uint32_t words[Words::kCount];

  template <class Packed>
  __device__ void load(const Packed& weights, int64_t group) {
    static_assert(Packed::Words::kCount == Words::kCount && Words::kCount % 4 == 0);
    const auto* from =
        reinterpret_cast<const uint4*>(weights.words) + (group * kWarp + lane_index()) * (Words::kCount / 4);
#pragma unroll
    for (int i = 0; i < Words::kCount / 4; ++i) {
      const uint4 four = from[i];
      words[4 * i] = four.x, words[4 * i + 1] = four.y, words[4 * i + 2] = four.z, words[4 * i + 3] = four.w;
    }
  }

  __device__ FragmentB tile(int step, int tile) const {
    return {words[Words::at(step, tile, 0)], words[Words::at(step, tile, 1)]};
  }
  __device__ FragmentA tiles(int step, int pair) const {
    return {words[Words::at(step, 2 * pair, 0)], words[Words::at(step, 2 * pair + 1, 0)],
            words[Words::at(step, 2 * pair, 1)], words[Words::at(step, 2 * pair + 1, 1)]};
  }
};

}  // namespace npr::cuda
