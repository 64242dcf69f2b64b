// Profiles of second differences, as npr_kernels/resampling.py defines them: the means, along columns and along rows,
// of log(1 + d), d the magnitude of the luma's second difference across or down.
//
// A sum of logarithms is that of a product: kFactors factors of 1 to 511 stay below 2^864, which double holds, and so
// one logarithm does for all. Two factors are multiplied in float first, which is exact. Rows go in strips of kFactors,
// so that what is kept does not grow with the height; beyond the image, lumas are 0 and factors 1.
//
// Cost: of a position, about 12 operations and the hundredth part of a logarithm; of memory, each pixel once.
#include <cmath>

#include "cpu/pixels.h"

namespace npr::cpu::NPR_ISA {
namespace {

using Floats = Vec<float>;
using Integers = Vec<int32_t>;
using Doubles = Vec<double>;
constexpr int64_t kGroup = kLanes<float>;
constexpr int64_t kFactors = 96;
static_assert(kFactors % (2 * kGroup) == 0, "factors are multiplied in pairs");

// 1 + |a - 2 b + c|, of whole numbers.
inline Floats factor(const float* a, const float* b, const float* c) {
  const Floats second = load(a) + load(c) - 2.f * load(b);
  return (Floats)((Integers)second & 0x7fffffff) + 1.f;
}

struct Product {
  Doubles halves[2] = {broadcast(1.), broadcast(1.)};

  void multiply(Floats factors) {
    typedef float HalfFloats __attribute__((vector_size(NPR_VECTOR_BYTES / 2)));
    HalfFloats parts[2];
    std::memcpy(parts, &factors, sizeof factors);
    for (int i = 0; i < 2; ++i) halves[i] *= __builtin_convertvector(parts[i], Doubles);
  }
};

// An image, strip by strip.
class Image {
 public:
  explicit Image(const Images& images)
      : images_(images),
        stride_((images.width + kFactors - 1) / kFactors * kFactors + kGroup),
        lumas_(workspace<float>((kFactors + 2) * stride_ + images.width)),
        bytes_(reinterpret_cast<uint8_t*>(lumas_ + (kFactors + 2) * stride_)) {}

  void run(int64_t n, double* across, double* down) {
    const int64_t height = images_.height, width = images_.width;
    std::memset(static_cast<void*>(lumas_), 0, (kFactors + 2) * stride_ * sizeof(float));
    for (int64_t x = 0; x < width - 2; ++x) across[x] = 0;
    for (int64_t top = 0; top < height; top += kFactors) {
      for (int64_t i = 0; i < kFactors + 2; ++i) find_lumas(n, top + i - 1, lumas_ + i * stride_);
      for (int64_t x = 0; x < width - 2; x += kGroup) add_columns(x, across);
      const int64_t last = min(top + kFactors, height - 1);
      for (int64_t y = top > 1 ? top : 1; y < last; ++y) down[y - 1] = row_sum(y - top) / double(width);
    }
    for (int64_t x = 0; x < width - 2; ++x) across[x] /= double(height);
  }

 private:
  void find_lumas(int64_t n, int64_t y, float* to) const {
    const int64_t width = images_.width;
    if (y < 0 || y >= images_.height) {
      std::memset(to, 0, width * sizeof(float));
      return;
    }
    const uint8_t* from = images_.data + n * images_.stride_n + y * images_.stride_h;
    const ChannelRows rows(images_, from, width, bytes_);
    const uint8_t *red = rows.of[0], *green = rows.of[1], *blue = rows.of[2];
    for (int64_t x = 0; x < width; ++x) to[x] = float((77 * red[x] + 150 * green[x] + 29 * blue[x]) >> 8);
  }

  // Adds the strip's logarithms of a group of columns.
  void add_columns(int64_t x, double* across) const {
    Product product;
    const float* from = lumas_ + stride_ + x;
    for (int64_t i = 0; i < kFactors; i += 2, from += 2 * stride_) {
      const float* next = from + stride_;
      product.multiply(factor(from, from + 1, from + 2) * factor(next, next + 1, next + 2));
    }
    double products[kGroup];
    std::memcpy(products, product.halves, sizeof products);
    const int64_t count = min(kGroup, images_.width - 2 - x);
    for (int64_t i = 0; i < count; ++i) across[x + i] += std::log(products[i]);
  }

  // The sum of logarithms along a row of the strip.
  double row_sum(int64_t row) const {
    const float* from = lumas_ + row * stride_;  // of the row above
    double sum = 0;
    for (int64_t x = 0; x < images_.width; x += kFactors) {
      Product product;
      for (int64_t i = 0; i < kFactors; i += 2 * kGroup) {
        const float *a = from + x + i, *b = a + kGroup;
        product.multiply(factor(a, a + stride_, a + 2 * stride_) * factor(b, b + stride_, b + 2 * stride_));
      }
      product.halves[0] *= product.halves[1];
      double all = 1;
      for (int i = 0; i < kLanes<double>; ++i) all *= product.halves[0][i];
      sum += std::log(all);
    }
    return sum;
  }

  const Images& images_;
  const int64_t stride_;  // of lumas, with zeros to the right
  float* const lumas_;    // of the strip, a row above and a row below, [kFactors + 2][stride_]
  uint8_t* const bytes_;  // room for a row of pixels of each channel
};

}  // namespace

void profiles(const Profiles& p, int64_t first, int64_t last) {
  Image image(p.images);
  for (int64_t n = first; n < last; ++n) {
    image.run(n, p.across + n * (p.images.width - 2), p.down + n * (p.images.height - 2));
  }
}

}  // namespace npr::cpu::NPR_ISA
