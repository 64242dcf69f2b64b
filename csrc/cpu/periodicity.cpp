// The coherence of the strength of detail, as npr_kernels/periodicity.py defines it.
//
// Of a channel, 8 integer differences r of neighbours are taken, and of their strength three scales,
//
//     fine    v = log(|r| + 0.3 (m + 0.5)),  m the mean of |r| over the 16x16 positions of a tile
//     coarse  v = log(|r| + 20)
//     edges   v = 1 where |r| > 20.5, else 0
//
// A block b of 8x8 positions has the Fourier transform F_b of v. What is wanted of an image is
//
//     T = |sum_b F_b|^2 / sum_b |F_b|^2   at each frequency.
//
// Lanes of vectors are blocks side by side, so that all steps are plain arithmetic of lanes. For that each row of
// pixels is split into its 8 phases, plane p having the pixels 8 b + p of all blocks b; a neighbour is another plane,
// or the same one from the next block on. Differences are exact in int16, their sums over tiles in float.
//
// The transform is that of real numbers, rows first and then columns: 20 operations for 8 numbers. Of constant numbers
// it is exactly zero but for the frequency 0, so that flat blocks add nothing to the sums. The logarithm is right to
// 1e-6 (see logarithm()). Sums over blocks are float within a region of at most kRegion pairs of vectors, some tens of
// additions a lane, and double between regions. Regions, vectors and lanes are added in the order of the image, which
// depends on its size and on the instruction set alone.
//
// Cost: of a position, 3 channels, 8 differences and 3 scales, each about 12 operations for a logarithm, 6 for the
// transform and 2 for the sums; of memory, each pixel once. What is kept does not grow with the image.
#include <cmath>

#include "cpu/pixels.h"

namespace npr::cpu::NPR_ISA {
namespace {

constexpr int kChannels = Coherence::kChannels, kScales = Coherence::kScales, kDifferences = Coherence::kDifferences;
constexpr int kBlock = Coherence::kBlock, kAcross = Coherence::kAcross, kHalf = kBlock / 2;
constexpr int kTile = 2 * kBlock;
constexpr float kFloor = 0.3f, kOffset = 0.5f, kCoarse = 20, kEdge = 20.5f;
// Energy of a block that counts as none, since rounding in the reference may make it.
constexpr double kRounding = 1e-6;

// Taps on the 3x3 pixels around a position; sums of any of their terms stay within 8 * 255.
constexpr int kTaps[kDifferences][3][3] = {
    {{0, 0, 0}, {0, -1, 1}, {0, 0, 0}},   {{0, 0, 0}, {0, -1, 0}, {0, 1, 0}},   {{1, -1, 0}, {-1, 1, 0}, {0, 0, 0}},
    {{0, 0, 0}, {1, -2, 1}, {0, 0, 0}},   {{0, 1, 0}, {0, -2, 0}, {0, 1, 0}},   {{0, -1, 0}, {-1, 4, -1}, {0, -1, 0}},
    {{0, 0, 0}, {-1, -2, -1}, {1, 2, 1}}, {{0, -1, 1}, {0, -2, 2}, {0, -1, 1}},
};

using Floats = Vec<float>;
using Integers = Vec<int32_t>;
using Shorts = Vec<int16_t>;
constexpr int64_t kGroup = kLanes<float>;   // blocks that are transformed together
constexpr int64_t kPair = kLanes<int16_t>;  // blocks whose differences are taken together: two groups
constexpr int64_t kRegion = 8;              // pairs of a region, across times down
static_assert(kPair == 2 * kGroup && kGroup % 2 == 0, "a tile's blocks are in one group");

inline Shorts magnitude(Shorts x) {
#if defined(__AVX512BW__)
  return (Shorts)_mm512_abs_epi16((__m512i)x);
#elif defined(__AVX2__)
  return (Shorts)_mm256_abs_epi16((__m256i)x);
#elif defined(__SSE2__)
  return (Shorts)_mm_max_epi16((__m128i)x, (__m128i)-x);
#else
  return x < 0 ? -x : x;
#endif
}

// The logarithm of normal positive numbers up to 2^12, to 1e-6 absolutely: x = 2^e (1.5 + t), |t| <= 1/2, and a
// polynomial in t, which is within 2.2e-7 of log(1.5 + t). Its terms round by 1.5e-7 together, and the result, below
// 8.4, by 4.8e-7.
inline Floats logarithm(Floats x) {
#if defined(__AVX512F__)
  const Floats e = _mm512_getexp_ps(x), t = _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src) - 1.5f;
#else
  const Integers bits = (Integers)x;
  const Floats e = __builtin_convertvector((bits >> 23) - 127, Floats);
  const Floats t = (Floats)((bits & 0x7fffff) | 0x3f800000) - 1.5f;
#endif
  Floats p = broadcast(0.0104841003f);
  p = p * t - 0.0174141936f;
  p = p * t + 0.0258622151f;
  p = p * t - 0.048928991f;
  p = p * t + 0.0988048911f;
  p = p * t - 0.222245395f;
  p = p * t + 0.666665733f;
  p = p * t + 0.405465305f;
  return e * 0.693147181f + p;
}

// The Fourier transform of 8 real numbers, in place: the real parts of frequencies 0 to 4, and the imaginary ones of
// 1 to 3 in x[kHalf + 1] and so on.
__attribute__((always_inline)) inline void transform(Floats (&x)[kBlock]) {
  constexpr float kRoot = 0.70710678f;  // of 1/2
  const Floats s0 = x[0] + x[4], s1 = x[1] + x[5], s2 = x[2] + x[6], s3 = x[3] + x[7];
  const Floats d0 = x[0] - x[4], d1 = x[1] - x[5], d2 = x[2] - x[6], d3 = x[3] - x[7];
  const Floats even = s0 + s2, odd = s1 + s3, less = d1 - d3, more = d1 + d3;
  x[0] = even + odd;
  x[1] = d0 + kRoot * less;
  x[2] = s0 - s2;
  x[3] = d0 - kRoot * less;
  x[4] = even - odd;
  x[5] = -d2 - kRoot * more;
  x[6] = s3 - s1;
  x[7] = d2 - kRoot * more;
}

// Sums over blocks, lane by lane, at the frequencies (down, across). Of real numbers, those of across 0 and kHalf are
// conjugate in down and kBlock - down: only down 0 to kHalf is summed there.
struct Sums {
  Floats re[kBlock][kAcross], im[kBlock][kAcross], power[kBlock][kAcross];

  void add(int down, int across, Floats real, Floats imaginary) {
    re[down][across] += real;
    im[down][across] += imaginary;
    power[down][across] += real * real + imaginary * imaginary;
  }
  void add(int down, int across, Floats real) {
    re[down][across] += real;
    power[down][across] += real * real;
  }
};

// Adds the blocks of a group: the strength of their positions [kBlock][kBlock], kPair apart, on a scale. Those of
// weight 0, where it is given, are none.
template <class Scale>
void add_blocks(const float* strength, Scale scale, const Floats* weight, Sums& sums) {
  Floats lines[kBlock][kBlock];
  for (int y = 0; y < kBlock; ++y) {
    Floats x[kBlock];
#pragma GCC unroll 8
    for (int i = 0; i < kBlock; ++i) x[i] = scale(load(strength + (y * kBlock + i) * kPair));
    transform(x);
#pragma GCC unroll 8
    for (int i = 0; i < kBlock; ++i) lines[y][i] = x[i];
  }
  if (weight != nullptr) {
    for (auto& line : lines) {
      for (Floats& value : line) value *= *weight;
    }
  }
  Floats a[kBlock], b[kBlock];  // transforms down of the real and of the imaginary parts
  const auto column = [&lines](int index, Floats(&to)[kBlock]) {
#pragma GCC unroll 8
    for (int y = 0; y < kBlock; ++y) to[y] = lines[y][index];
    transform(to);
  };
  for (int u = 0; u <= kHalf; u += kHalf) {
    column(u, a);
    sums.add(0, u, a[0]);
    sums.add(kHalf, u, a[kHalf]);
#pragma GCC unroll 3
    for (int v = 1; v < kHalf; ++v) sums.add(v, u, a[v], a[kHalf + v]);
  }
  for (int u = 1; u < kHalf; ++u) {
    column(u, a);
    column(kHalf + u, b);
    sums.add(0, u, a[0], b[0]);
    sums.add(kHalf, u, a[kHalf], b[kHalf]);
#pragma GCC unroll 3
    for (int v = 1; v < kHalf; ++v) {  // A + i B of A and B at v, and of their conjugates, which are at -v
      sums.add(v, u, a[v] - b[kHalf + v], a[kHalf + v] + b[v]);
      sums.add(kBlock - v, u, a[v] + b[kHalf + v], b[v] - a[kHalf + v]);
    }
  }
}

// What they come to in double, over regions and lanes.
struct Totals {
  double re[kBlock][kAcross], im[kBlock][kAcross], power[kBlock][kAcross];

  void add(const Sums& sums) {
    add(sums.re, re);
    add(sums.im, im);
    add(sums.power, power);
  }

  void write(int64_t blocks, float* out) const {
    for (int v = 0; v < kBlock; ++v) {
      for (int u = 0; u < kAcross; ++u) {
        const int from = u % kHalf == 0 && v > kHalf ? kBlock - v : v;
        const double together = re[from][u] * re[from][u] + im[from][u] * im[from][u], energy = power[from][u];
        *out++ = energy <= kRounding * double(blocks) ? 1 : float(together / energy);
      }
    }
  }

 private:
  static void add(const Floats (&from)[kBlock][kAcross], double (&to)[kBlock][kAcross]) {
    for (int v = 0; v < kBlock; ++v) {
      for (int u = 0; u < kAcross; ++u) {
        double total = 0;
        for (int lane = 0; lane < kGroup; ++lane) total += from[v][u][lane];
        to[v][u] += total;
      }
    }
  }
};

// |r| of a tile row of one pair, [kTile][kBlock][kPair], and what is added to it in the fine scale, of each block.
struct Strength {
  alignas(NPR_VECTOR_BYTES) float values[kTile * kBlock * kPair];
  alignas(NPR_VECTOR_BYTES) float floors[kPair];
};

// Of the position at phase `phase`, whose 3x3 pixels begin in this row of planes, [kBlock][stride], at this block.
template <int difference>
__attribute__((always_inline)) inline Shorts difference_at(const int16_t* from, int64_t stride, int phase) {
  Shorts total = {};
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const int tap = kTaps[difference][i][j], at = phase + j;
      if (tap != 0) total += int16_t(tap) * load(from + (i * kBlock + at % kBlock) * stride + at / kBlock);
    }
  }
  return total;
}

template <int difference>
void find_strength(const int16_t* from, int64_t stride, Strength& to) {
  typedef int16_t HalfShorts __attribute__((vector_size(NPR_VECTOR_BYTES / 2)));
  const auto widened = [](Shorts x, Floats(&halves)[2]) {
    HalfShorts parts[2];
    std::memcpy(parts, &x, sizeof x);
    for (int i = 0; i < 2; ++i) {
      halves[i] = __builtin_convertvector(__builtin_convertvector(parts[i], Integers), Floats);
    }
  };
  Floats sums[2] = {}, halves[2];
  float* value = to.values;
  for (int y = 0; y < kTile; y += 2) {
    Shorts sum = {};  // of 16 numbers, which int16 holds
#pragma GCC unroll 2
    for (int row = 0; row < 2; ++row, from += kBlock * stride) {
#pragma GCC unroll 8
      for (int phase = 0; phase < kBlock; ++phase, value += kPair) {
        const Shorts r = magnitude(difference_at<difference>(from, stride, phase));
        sum += r;
        widened(r, halves);
        store(value, halves[0]);
        store(value + kGroup, halves[1]);
      }
    }
    widened(sum, halves);
    sums[0] += halves[0], sums[1] += halves[1];
  }
  float blocks[kPair];
  store(blocks, sums[0]);
  store(blocks + kGroup, sums[1]);
  for (int i = 0; i < kPair; ++i) {
    to.floors[i] = kFloor * ((blocks[i] + blocks[i ^ 1]) * (1.f / (kTile * kTile)) + kOffset);
  }
}

// An image, region by region.
class Image {
 public:
  explicit Image(const Images& images)
      : images_(images),
        rows_(tiles(images.height)),
        blocks_(tiles(images.width) * (kTile / kBlock)),
        region_pairs_(min((blocks_ + kPair - 1) / kPair, kRegion)),
        region_rows_(region_pairs_ > 0 ? min(kRegion / region_pairs_, rows_) : 0),
        stride_((region_pairs_ + 1) * kPair),
        plane_rows_(region_rows_ * kTile + 2) {}

  // Whether there is a tile.
  bool any() const { return rows_ > 0 && blocks_ > 0; }

  void run(int64_t n, float* out) {
    const int64_t pixels = (region_pairs_ * kPair + 1) * kBlock, planes = kChannels * plane_rows_ * kBlock * stride_;
    planes_ = workspace<int16_t>(planes + kChannels * pixels / 2);
    bytes_ = reinterpret_cast<uint8_t*>(planes_ + planes);
    std::memset(planes_, 0, planes * sizeof(int16_t));  // lanes beyond the image are read, and not counted
    const Scratch<Totals> totals(kScales * kDifferences * kChannels);
    std::memset(static_cast<void*>(totals.get()), 0, kScales * kDifferences * kChannels * sizeof(Totals));
    data_ = images_.data + n * images_.stride_n;
    for (int64_t row = 0; row < rows_; row += region_rows_) {
      for (int64_t block = 0; block < blocks_; block += region_pairs_ * kPair) region(row, block, totals.get());
    }
    const int64_t blocks = rows_ * (kTile / kBlock) * blocks_;
    for (int i = 0; i < kScales * kDifferences * kChannels; ++i) {
      totals.get()[i].write(blocks, out + i * kBlock * kAcross);
    }
  }

 private:
  // Differences leave out the rim, and what fills no tile is left out too.
  static int64_t tiles(int64_t side) { return side < 2 ? 0 : (side - 2) / kTile; }

  void region(int64_t first_row, int64_t first_block, Totals* totals) {
    const int64_t rows = min(region_rows_, rows_ - first_row);
    const int64_t blocks = min(region_pairs_ * kPair, blocks_ - first_block);
    for (int64_t y = 0; y < rows * kTile + 2; ++y) split(first_row * kTile + y, first_block, blocks, y);
    for (int c = 0; c < kChannels; ++c) {
      const int16_t* plane = planes_ + c * plane_rows_ * kBlock * stride_;
      for (int d = 0; d < kDifferences; ++d) {
        Sums sums[kScales] = {};
        with_constant<kDifferences>(d + 1, [&](auto number) {
          for (int64_t row = 0; row < rows; ++row) {
            for (int64_t block = 0; block < blocks; block += kPair) {
              find_strength<number() - 1>(plane + row * kTile * kBlock * stride_ + block, stride_, strength_);
              add_pair(blocks - block, sums);
            }
          }
        });
        for (int s = 0; s < kScales; ++s) totals[(s * kDifferences + d) * kChannels + c].add(sums[s]);
      }
    }
  }

  // Adds as many blocks of the pair as there are.
  void add_pair(int64_t count, Sums* sums) {
    for (int64_t first = 0; first < min(count, kPair); first += kGroup) {
      Floats weight;
      for (int i = 0; i < kGroup; ++i) weight[i] = first + i < count;
      const Floats* given = first + kGroup <= count ? nullptr : &weight;
      for (int half = 0; half < kTile / kBlock; ++half) {
        const float* values = strength_.values + half * kBlock * kBlock * kPair + first;
        const Floats floor = load(strength_.floors + first), zero = {};
        add_blocks(values, [floor](Floats r) { return logarithm(r + floor); }, given, sums[0]);
        add_blocks(values, [](Floats r) { return logarithm(r + kCoarse); }, given, sums[1]);
        add_blocks(values, [zero](Floats r) { return r > kEdge ? zero + 1.f : zero; }, given, sums[2]);
      }
    }
  }

  // Splits a row of pixels, from a block on, into the phases of row y of the planes.
  void split(int64_t row, int64_t block, int64_t blocks, int64_t y) {
    const int64_t pixels = blocks * kBlock + 2;
    const uint8_t* from = data_ + row * images_.stride_h + block * kBlock * images_.stride_w;
    const ChannelRows channels(images_, from, pixels, bytes_);
    for (int c = 0; c < kChannels; ++c) {
      split(channels.of[c], pixels, planes_ + (c * plane_rows_ + y) * kBlock * stride_);
    }
  }

  void split(const uint8_t* from, int64_t pixels, int16_t* to) const {
    typedef uint8_t Eight __attribute__((vector_size(kBlock)));
    typedef int16_t EightShorts __attribute__((vector_size(2 * kBlock)));
    constexpr int64_t kStep = kBlock * kBlock;
    uint8_t rest[kStep] = {}, phases[kStep];
    for (int64_t x = 0; x < pixels; x += kStep, to += kBlock) {
      if (pixels - x < kStep) std::memcpy(rest, from + x, pixels - x);
      transpose_blocks(pixels - x < kStep ? rest : from + x, phases);
      for (int p = 0; p < kBlock; ++p) {
        Eight bytes;
        std::memcpy(&bytes, phases + p * kBlock, sizeof bytes);
        const EightShorts shorts = __builtin_convertvector(bytes, EightShorts);
        std::memcpy(to + p * stride_, &shorts, sizeof shorts);
      }
    }
  }

  const Images& images_;
  const int64_t rows_, blocks_;               // of tiles, and of blocks in each of their two lines
  const int64_t region_pairs_, region_rows_;  // of a region: pairs across, and rows of tiles
  const int64_t stride_, plane_rows_;         // of planes
  const uint8_t* data_ = nullptr;
  int16_t* planes_ = nullptr;  // [kChannels][plane_rows_][kBlock][stride_]
  uint8_t* bytes_ = nullptr;   // room for a row of pixels of each channel
  Strength strength_;
};

}  // namespace

void coherence(const Coherence& p, int64_t first, int64_t last) {
  Image image(p.images);
  for (int64_t n = first; n < last; ++n) {
    float* out = p.out + n * p.kSize;
    if (image.any()) {
      image.run(n, out);
    } else {
      for (int64_t i = 0; i < p.kSize; ++i) out[i] = 1;
    }
  }
}

}  // namespace npr::cpu::NPR_ISA
