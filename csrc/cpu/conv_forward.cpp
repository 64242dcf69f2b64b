// Fused residual + convolution, forward: out[n, o, oy, ox] = bias[o] + sum_k weight[k][o] * tap_k[oy][ox].
//
// An implicit matrix product with K = 24 taps for NPR of 3 channels, 27 for Haar: an output row is the
// product of its taps [K][cols] and the weights [K][O], both with the reduction dimension outside. A
// register tile multiplies a few broadcast elements of one with a few vectors of the other: channels_last
// output takes its vectors from the weights, NCHW output from the taps, and both store whole vectors
// straight from registers.
//
// Cost per output: K multiply-adds. Per row of 3 channels: 2 cols bytes read per image row and
// O cols elements written; the taps, 9 planes of cols for NPR, stay in the first-level cache. Writing through the
// caches moves each line twice, since it is read before it is written; a result that does not fit them goes past them.
#include "cpu/differences.h"
#include "cpu/tiles.h"

namespace npr::cpu::NPR_ISA {
namespace {

template <class Element>
void forward(const ConvForward& p, int64_t first, int64_t last) {
  using T = Compute<Element>;
  const int64_t taps = p.taps(), rows = p.images.rows(), cols = p.images.cols();
  const T* bias = static_cast<const T*>(p.bias);
  Scratch<const T*> weight(taps), tap(taps);
  for (int64_t k = 0; k < taps; ++k) weight.get()[k] = static_cast<const T*>(p.weight) + k * padded(p.outputs);

  RowWalk<T> walk(p);
  for (int64_t unit = first; unit < last; ++unit) {
    walk.taps(unit, tap.get());
    Element* out = static_cast<Element*>(p.out);
    if (p.channels_last) {
      out += unit * cols * p.outputs;
      // A tile of less than a pixel's outputs would come back to each pixel once a row is through: lines out of order.
      const bool past_caches = p.past_caches && p.outputs <= kTileVectors * kLanes<T>;
      multiply_row<Element, false>(tap.get(), cols, weight.get(), p.outputs, taps, bias, out, p.outputs, past_caches);
    } else {
      const int64_t n = unit / rows, oy = unit % rows;
      out += (n * p.outputs * rows + oy) * cols;
      multiply_row<Element, true>(weight.get(), p.outputs, tap.get(), cols, taps, bias, out, rows * cols,
                                  p.past_caches);
    }
  }
  if (p.past_caches) finish_streaming();
}

}  // namespace

void conv_forward(const ConvForward& p, int64_t first, int64_t last) {
  with_type(p.type, [&](auto* element) { forward<std::remove_pointer_t<decltype(element)>>(p, first, last); });
}

}  // namespace npr::cpu::NPR_ISA
