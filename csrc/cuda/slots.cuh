// Where the taps of a residual lie in a patch on tensor cores, of images of 3 channels.
//
// A patch is octets of 16-bit numbers: 16 bytes, a row of an 8x8 matrix for ldmatrix. Eight taps of one map and channel
// are an octet. The ninth taps, where there are, share one with a constant 1, which sums up what patches are multiplied
// by:
//
//     npr          octets 0..2: channels 0..2
//     haar         octets 0..2: channels 0..2, taps 0..7    octet 3: tap 8 of each channel, 1, low parts of tap 8, 0
//     npr+haar     octets 0..2: npr    octets 3..5: haar    octet 6: likewise
//
// Haar's differences have 9 bits and bfloat16 8, so there they are a high and a low part, whose sum is exact. The low
// parts of taps 0..7 are octets of their own, after all others. Float16 has 11 bits, and low parts of 0.
#pragma once

#include <iterator>
#include <utility>

#include "cuda/numbers.cuh"

namespace npr::cuda {

constexpr int kChannels = 3;  // of the tensor-core kernels; other images take the plain ones
constexpr int kOctet = 8;     // slots of one

template <int kResidual>
struct Slots {
  static constexpr Residual kRead = kResiduals[kResidual];
  static constexpr Map kFirst = kRead.map[0], kLast = kRead.map[kRead.maps - 1];
  static constexpr bool kNpr = kFirst == Map::npr, kHaar = kLast == Map::haar;
  static_assert(taps_of(Map::npr) == kOctet && taps_of(Map::haar) == kOctet + 1 && kNpr + kHaar == kRead.maps);

  static constexpr int kTaps = kChannels * kRead.taps;       // of a patch, k = (map, channel, tap)
  static constexpr int kOwnOctets = kChannels * kRead.maps;  // those of one map and channel
  static constexpr int kHaarOctet = kOwnOctets - kChannels;  // the first of haar, if it is there
  static constexpr int kOctets = kOwnOctets + kHaar;         // but for those of low parts
  static constexpr int kSlots = kOctets * kOctet;
  // The constant one's slot, and that of the first low part; where patches have none, kernels put an octet of a one and
  // zeros beside them. All columns that patches are multiplied as, and their slots up to the last that is used.
  static constexpr int kOne = kOwnOctets * kOctet + (kHaar ? kChannels : 0), kLowNinth = kOne + 1;
  static constexpr bool kOnesBeside = !kHaar;
  static constexpr int kColumns = kOctets + kOnesBeside, kSums = kOnesBeside ? kOne + 1 : kSlots;

  // Octets of patches of type T, with those of low parts.
  template <class T>
  static constexpr int kStored = kOctets + (kHaar && std::is_same_v<T, BFloat> ? kChannels : 0);

  static constexpr int kHaarTap = kNpr ? kChannels * taps_of(Map::npr) : 0;  // the first k of haar

  // The slot of tap k.
  NPR_HOST_DEVICE static constexpr int slot(int k) {
    if (kNpr && k < kChannels * kOctet) return k;
    const int channel = (k - kHaarTap) / (kOctet + 1), tap = (k - kHaarTap) % (kOctet + 1);
    return tap < kOctet ? (kHaarOctet + channel) * kOctet + tap : kOwnOctets * kOctet + channel;
  }

  // The tap that lies in a slot, or -1.
  NPR_HOST_DEVICE static constexpr int tap(int slot) {
    const int octet = slot / kOctet, index = slot % kOctet;
    if (octet == kOwnOctets) return index < kChannels ? kHaarTap + index * (kOctet + 1) + kOctet : -1;
    if (!kHaar || octet < kHaarOctet) return slot;
    return kHaarTap + (octet - kHaarOctet) * (kOctet + 1) + index;
  }

  // Whether a tap is its channel's ninth, whose low part lies in the slot four further.
  NPR_HOST_DEVICE static constexpr bool ninth(int k) { return slot(k) >= kOwnOctets * kOctet; }
  static constexpr int kToLow = 4;
  static_assert(!kHaar || kLowNinth == kOwnOctets * kOctet + kToLow);

  static constexpr bool round_trip() {
    for (int k = 0; k < kTaps; ++k) {
      if (tap(slot(k)) != k) return false;
    }
    return true;
  }
};

static_assert(Slots<0>::round_trip() && Slots<1>::round_trip() && Slots<2>::round_trip());
static_assert(std::size(kResiduals) == 3);

// Calls f with 0 to kCount - 1 as constants.
template <int kCount, class F>
__device__ void unrolled(const F& f) {
  const auto call = [&]<int... i>(std::integer_sequence<int, i...>) { (f(std::integral_constant<int, i>{}), ...); };
  call(std::make_integer_sequence<int, kCount>{});
}

// Calls f with the number of a residual as a constant.
template <class F>
auto with_residual(int residual, const F& f) {
  switch (residual) {
    case 0: return f(std::integral_constant<int, 0>{});
    case 1: return f(std::integral_constant<int, 1>{});
    default: return f(std::integral_constant<int, 2>{});
  }
}

}  // namespace npr::cuda
