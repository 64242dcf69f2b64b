// Patch moments: N, M1 = sum d and M2 = sum d d^T over all positions, exactly.
//
// Differences are small integers, so a float holds a product exactly and the sum of some of them: NPR's
// have |d d| <= 255^2, and 258 times that is below 2^24; Haar's 510^2 leaves room for 64. Each lane of an
// accumulator adds up that many at most and is then emptied into integers. The products are those of the
// weight gradient with the taps in the gradient's place; M2 is symmetric, so tiles below its diagonal are
// left out. The tap that is always one yields M1.
//
// Cost per position: about K * K / 2 multiply-adds; bytes: the image, once.
#include "cpu/differences.h"
#include "cpu/tiles.h"

namespace npr::cpu::NPR_ISA {
namespace {

class MomentSum {
 public:
  explicit MomentSum(const Source& source)
      : images_(source.images),
        taps_(source.taps()),
        exact_products_((1 << 24) / (source.residual.largest * source.residual.largest)),
        block_(source),
        tails_(RowBlock<float>::kRows * kLaneRows * kLanes<float>) {}

  // Adds output rows first .. last - 1, at most RowBlock::kRows of them, to the moments.
  void add(int64_t first, int64_t last, int64_t* moments) {
    block_.load(first, last);
    const int64_t taps = taps_, columns = block_.columns();
    moments[0] += (last - first) * images_.cols();
    for (int64_t k = 0; k < taps; k += kLaneRows) {
      const int height = int(min(taps - k, kLaneRows));
      cut_tails(last - first, k, height);
      for (int64_t l = k / kTileTaps * kTileTaps; l < columns; l += kTileTaps) {
        const int width = int(min(columns - l, kTileTaps));
        with_constant<kLaneRows>(height, [&](auto rows) {
          with_constant<kTileTaps>(width, [&](auto cols) {
            add_tile<decltype(rows)::value, decltype(cols)::value>(last - first, k, l, moments);
          });
        });
      }
    }
  }

 private:
  Images images_;
  int64_t taps_;
  int64_t exact_products_;  // how many a lane can add up
  RowBlock<float> block_;
  Scratch<float> tails_;  // [row][kLaneRows][lanes]

  int64_t whole_vectors() const { return images_.cols() / kLanes<float>; }

  // Past the end of a row a shifted tap is not zero; the last vector of the left factors is cut there.
  void cut_tails(int64_t rows, int64_t k, int height) {
    const int64_t x = whole_vectors() * kLanes<float>;
    if (x == images_.cols()) return;
    for (int64_t row = 0; row < rows; ++row) {
      for (int i = 0; i < height; ++i) {
        float* tail = tails_.get() + (row * kLaneRows + i) * kLanes<float>;
        store(tail, load(block_.taps(row)[k + i] + x) * load(block_.ones() + x));
      }
    }
  }

  template <int M, int N>
  void add_tile(int64_t rows, int64_t k, int64_t l, int64_t* moments) {
    Vec<float> tile[M][N] = {};
    const int64_t exact_products = exact_products_;
    int64_t products = 0;
    const auto make_room = [&](int64_t more) {
      if (products + more > exact_products) {
        empty_tile(tile, k, l, moments);
        products = 0;
      }
      products += more;
    };
    for (int64_t row = 0; row < rows; ++row) {
      const float* a[M];
      const float* b[N];
      const auto point_to = [&](int64_t x) {
        for (int i = 0; i < M; ++i) a[i] = block_.taps(row)[k + i] + x;
        for (int j = 0; j < N; ++j) b[j] = block_.taps(row)[l + j] + x;
      };
      for (int64_t x = 0; x < whole_vectors(); x += exact_products) {
        const int64_t length = min(whole_vectors() - x, exact_products);
        make_room(length);
        point_to(x * kLanes<float>);
        accumulate_lanes<M, N>(a, b, length, tile);
      }
      if (whole_vectors() * kLanes<float> < images_.cols()) {
        make_room(1);
        point_to(whole_vectors() * kLanes<float>);
        for (int i = 0; i < M; ++i) a[i] = tails_.get() + (row * kLaneRows + i) * kLanes<float>;
        accumulate_lanes<M, N>(a, b, 1, tile);
      }
    }
    empty_tile(tile, k, l, moments);
  }

  template <int M, int N>
  void empty_tile(Vec<float> (&tile)[M][N], int64_t k, int64_t l, int64_t* moments) const {
    const int64_t taps = taps_;
    int64_t* first = moments + 1;
    int64_t* second = first + taps;
    for (int i = 0; i < M; ++i) {
      for (int j = 0; j < N; ++j) {
        const int64_t sum = int64_t(sum_lanes<float>(tile[i][j]));
        tile[i][j] = Vec<float>{};
        if (l + j == taps) {
          first[k + i] += sum;
        } else if (l + j >= k + i) {
          second[(k + i) * taps + l + j] += sum;
        }
      }
    }
  }
};

}  // namespace

void patch_moments(const PatchMoments& p, int64_t first, int64_t last) {
  constexpr int64_t kRows = RowBlock<float>::kRows;
  const int64_t total = p.images.batch * p.images.rows(), taps = p.taps();
  MomentSum sum(p);
  for (int64_t unit = first; unit < last; ++unit) {
    int64_t* moments = p.partial + unit * p.size();
    std::memset(moments, 0, p.size() * sizeof(int64_t));
    const int64_t end = min(total, (unit + 1) * p.kUnitRows);
    for (int64_t row = unit * p.kUnitRows; row < end; row += kRows) sum.add(row, min(row + kRows, end), moments);
    int64_t* second = moments + 1 + taps;
    for (int64_t k = 0; k < taps; ++k) {
      for (int64_t l = 0; l < k; ++l) second[k * taps + l] = second[l * taps + k];
    }
  }
}

}  // namespace npr::cpu::NPR_ISA
