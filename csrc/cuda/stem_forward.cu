// The stem: max_pool3x3s2p1(relu(batch_norm(conv))) of uint8 images, and only its result in memory.
//
// Batch normalisation is folded into the weights, by running or by the batch's statistics, the latter
// from the patch moments (weights.cuh); a sum starts at its shift, so that ReLU compares with zero, and
// zero is what maxima take for positions outside the image. The convolution is that of conv_forward.cu.
// An MMA's 16 rows are the even and the odd columns of 8 pooled outputs, so that a thread holds both for
// one of them: it takes the maximum of three rows, then of its two columns and of the odd column to the
// left, which the thread four before it sends. For the backward pass one byte an output says where the
// maximum was: of 16-bit results it travels in the last bits of what is compared (pooling.cuh). Without it,
// rounding to bfloat16 and ReLU come before the maximum, which they do not change: then half as many
// registers hold what is compared, three pairs of channels at once.
//
// Bytes: 48 read and O x size written, and O for the code, per pooled output; 256 images of 256x256 to
// 64 channels are 50 MB and 134 MB in bfloat16, 67 MB of codes. Instructions of a warp for 8 pooled
// outputs x 32 channels, of npr in bfloat16 without codes: 24 MMA (16 if fast), 4 ldmatrix, 16 conversions, 12
// maxima, 4 multiplications and some 40 more, with an eighth of the MMA again for the row that tiles
// share; 70 to form the patches, once for all channels. With codes 68 more: 32 for the places, 40 maxima of
// integers in place of 28 maxima and conversions, 10 for the bytes. They decide: the products alone, 2 x 24 x 64
// multiply-adds an output of the convolution, are 25.8 Gflop for the images above. Two blocks of 8 warps
// fit a multiprocessor (128 registers a thread, 81 KB of shared memory a block, 89 KB with codes, 98 KB in
// float32; where it has less than 180 KB, one block with codes). With more octets a patch (slots.cuh) blocks are of 4
// warps.
//
// Other than 3 channels, or float64 results, take a plain kernel, one thread per result.
#include "cuda/plain.cuh"
#include "cuda/pooling.cuh"
#include "cuda/weights.cuh"

namespace npr::cuda {
namespace {

// Warps of a block, and blocks of a multiprocessor: fewer warps where patches are longer, so that shared memory holds
// their tile, and fewer blocks where weights need more registers.
template <int kResidual>
constexpr int kWarps = Slots<kResidual>::kOctets > kChannels ? 4 : 8;
template <int kResidual>
constexpr int kThreads = kWarps<kResidual> * kWarp;
template <int kResidual>
constexpr int kBlocks = Slots<kResidual>::kOctets == 4 ? 3 : 2;

// A tile is 4 x 8 pooled outputs for each warp, side by side, under 9 x 16 of the convolution. The first column of
// pooled outputs is only there for its odd column, unless it is the image's first.
constexpr int kPooledRows = 4;
template <int kResidual>
constexpr int kPooledCols = 8 * kWarps<kResidual>;
template <int kResidual>
using TileOf = PatchTile<kResidual, Half, 2 * kPooledRows + 1, 2 * kPooledCols<kResidual>>;

template <int kResidual>
Tiling tiling_of(const Images& images) {
  constexpr int kNew = kPooledCols<kResidual> - 1;
  const int64_t down = ceil_div(pooled(images.rows()), kPooledRows);
  const int64_t across = std::max<int64_t>(1, ceil_div(pooled(images.cols()) - 1, kNew));
  return Tiling::of(images, down, across, 2 * kPooledRows, 2 * kNew, -1, 0);
}

template <int kResidual, class T>
struct Problem {
  Tiling tiling;
  PackedWeights<kResidual, kVector<T>> weights;
  int64_t outputs;
  uint8_t* code;
  bool fast;
  bool aligned;  // whole vectors of results and codes lie on their boundaries
};

// What a group of channels is multiplied by, and what its sums start from.
template <int kResidual>
struct GroupWeights {
  WeightFragments<Slots<kResidual>::kOctets> fragments;
  Accumulator start[kGroupTiles];

  template <class Packed>
  __device__ void load_start(const Packed& weights, int64_t group) {
#pragma unroll
    for (int j = 0; j < kGroupTiles; ++j) load_floats(start[j].values, weights.start_of(group, j));
  }
};

// This lane's rows of the matrices that a warp multiplies: patches of the 16 columns that it pools.
template <int kResidual>
struct PatchReader {
  static constexpr int kOctets = Slots<kResidual>::kOctets;
  using Tile = TileOf<kResidual>;
  using Operands = Steps<kOctets>;
  const uint4 *pairs, *alone;  // the first pair of octets and the last octet, in the first row of the tile

  // An odd column beyond the image, whose last is `last_col` of the tile, is replaced by the even one beside it.
  __device__ PatchReader(const Tile& tile, int last_col) {
    const int lane = lane_index(), row = lane % 16, even = warp_index() * 16 + 2 * (row % 8);
    const int position = even + (even < last_col ? row / 8 : 0);
    pairs = tile.patch(lane / 16, position);
    alone = tile.patch(kOctets - 1, position);
  }

  // patch_row() permutes within 32 positions, so rows of the tile are a constant distance apart.
  static_assert(Tile::kCols % 32 == 0);

  // The convolution's outputs in row `y` of the tile, which is `row` of the five of two windows.
  template <class Element>
  __device__ void convolve(Columns<Element>& columns, const GroupWeights<kResidual>& weights, int y, int row,
                           bool fast) const {
    FragmentA operands[Operands::kOperands];
#pragma unroll
    for (int pair = 0; pair < Operands::kPairs; ++pair) {
      load_matrices<false>(operands[pair].words, pairs + 2 * pair * Tile::kStride + y * Tile::kCols);
    }
    if (Operands::kAlone) load_matrices<false>(operands[Operands::kOperands - 1].words, alone + y * Tile::kCols);
#pragma unroll
    for (int j = 0; j < kGroupTiles; ++j) {
      Accumulator sums;
#pragma unroll
      for (int i = 0; i < 4; ++i) sums.values[i] = weights.start[j].values[i];
      // The octet alone first, since it is not conditional, and so needs no copy of start.
      if constexpr (Operands::kAlone == 1) {
        constexpr int kStep = Operands::kPairs;
        multiply_add<Half>(sums, operands[kStep], weights.fragments.tile(kStep, j));
      }
#pragma unroll
      for (int pair = 0; pair < Operands::kPairs; ++pair) {
        if (!fast) multiply_add<Half>(sums, operands[pair], weights.fragments.tile(pair, j));
      }
#pragma unroll
      for (int pair = 0; pair < Operands::kPairs; ++pair) {
        multiply_add<Half>(sums, operands[pair], weights.fragments.tile(Operands::kOperands + pair, j));
      }
      if constexpr (std::is_same_v<Element, Pair>) {
        columns.even[j] = pack_rectified(sums.values[0], sums.values[1]);
        columns.odd[j] = pack_rectified(sums.values[2], sums.values[3]);
      } else {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if constexpr (std::is_same_v<Element, Key>) {
            columns.even[2 * j + i] = key_of(sums.values[i], row, 1);
            columns.odd[2 * j + i] = key_of(sums.values[2 + i], row, 2);
          } else {
            columns.even[2 * j + i] = sums.values[i];
            columns.odd[2 * j + i] = sums.values[2 + i];
          }
        }
      }
    }
  }
};

// What is compared. Results that are rounded to bfloat16 can be rounded before the maximum, unless codes tell apart
// what rounding makes equal; codes of 16-bit results are parts of keys.
template <class T, bool kSave>
using Compared = std::conditional_t<sizeof(T) == 2 && kSave, Key,
                                    std::conditional_t<std::is_same_v<T, BFloat> && !kSave, Pair, float>>;

template <int kResidual, class T, bool kSave>
struct Shared {
  static constexpr int kValues = Columns<Compared<T, kSave>>::kCount / 4;
  static constexpr bool kCodes = kSave && std::is_same_v<T, float>;

  TileOf<kResidual> patches;
  Exchange<kValues + kCodes, kThreads<kResidual>> exchange;
};
constexpr int kMostShared = 99 << 10;  // what a block may have on sm_86, sm_89 and sm_120
static_assert(sizeof(Shared<0, float, true>) <= kMostShared && sizeof(Shared<1, float, true>) <= kMostShared &&
              sizeof(Shared<2, float, true>) <= kMostShared);

// Blocks that the registers must leave room for: where a multiprocessor has 100 KB of shared memory, one fits.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
template <int kResidual>
constexpr int kResident = 1;
#else
template <int kResidual>
constexpr int kResident = kBlocks<kResidual>;
#endif

template <int kResidual, class T, bool kSave>
__global__ void __launch_bounds__(kThreads<kResidual>, kResident<kResidual>)
    stem_forward_kernel(Problem<kResidual, T> p, T* out) {
  using Element = Compared<T, kSave>;
  constexpr bool kKeys = std::is_same_v<Element, Key>;
  constexpr bool kStartsAnew = !std::is_same_v<T, BFloat>;  // registers are short
  constexpr int kRun = kVector<T>;
  constexpr int kTiles = kGroupTiles;
  using Values = Columns<Element>;
  auto& shared = dynamic_shared<Shared<kResidual, T, kSave>>();
  const int lane = lane_index(), warp = warp_index(), g = lane / 4, t = lane % 4;
  const int rows = p.tiling.rows, cols = p.tiling.cols;
  const int pooled_rows = int(pooled(rows)), pooled_cols = int(pooled(cols));
  const int64_t groups = ceil_div(p.outputs, kGroup);
  shared.exchange.clear();

  for_each_tile(p.tiling, shared.patches, [&](const Tiling::Position& tile) {
    const PatchReader<kResidual> patches(shared.patches, cols - 1 - tile.col);
    const int first_row = (tile.row + 1) >> 1, col = tile.col / 2 + warp * 8 + g;
    const bool emits = col < pooled_cols && (tile.col == 0 || warp > 0 || g > 0);
    const bool any = 2 * (col - g) < cols;     // of the warp's columns
    const int last_row = rows - 1 - tile.row;  // of the image
    const int64_t first_at = ((int64_t(tile.image) * pooled_rows + first_row) * pooled_cols + col) * p.outputs;

    for (int64_t group = 0; group < groups; ++group) {
      GroupWeights<kResidual> weights;
      weights.fragments.load(p.weights, group);
      weights.load_start(p.weights, group);
      const int64_t first_channel = group * kGroup + t * kRun;
      const int channels = int(p.outputs - first_channel);  // from there on
      const float* unscale_from = p.weights.unscale + first_channel;
      int64_t at = first_at + first_channel;
      uint32_t unscale_pairs[kTiles];
      if constexpr (std::is_same_v<T, BFloat>) {
        float unscale[8];
        load_floats(unscale, unscale_from);
#pragma unroll
        for (int j = 0; j < kTiles; ++j) unscale_pairs[j] = pack<BFloat>(unscale[2 * j], unscale[2 * j + 1]);
      }

      Values shared_rows[2], maxima;  // the rows of the convolution that two pooled ones share, in turn above and below
      Codes codes;
      if (first_row > 0) {
        patches.convolve(shared_rows[0], weights, 0, 4, p.fast);  // the fifth row of the two windows above
      } else {
        shared_rows[0].clear();
      }

#pragma unroll 2
      for (int y = 0; y < kPooledRows; ++y, at += pooled_cols * p.outputs) {
        const int window = y % 2;  // of two
        constexpr int kValues = Shared<kResidual, T, kSave>::kValues;
        // Convolve two rows more, and take the maxima of three.
        if (any) {
          const Values& above = shared_rows[y % 2];
          Values& below = shared_rows[1 - y % 2];
          const int last = min(2 * y + 2, last_row);  // if not there, the one above again
          if (kStartsAnew) weights.load_start(p.weights, group);
          patches.convolve(maxima, weights, 2 * y + 1, 2 * window + 1, p.fast);
          if (kStartsAnew) weights.load_start(p.weights, group);
          patches.convolve(below, weights, last, 2 * window + 2, p.fast);
          if constexpr (kSave && !kKeys) {
            find_largest(maxima, codes, above, below);
            shared.exchange.put(y % 2, kValues, codes.odd);
          } else {
            find_largest(maxima, above, below, window);
          }
          shared.exchange.put(y % 2, 0, maxima.odd);
        }
        // Exchange the column to the left, and take the maxima of three columns.
        __syncthreads();
        if (!any) continue;

        Element left[Values::kCount], largest[Values::kCount];
        shared.exchange.get(y % 2, 0, left);
        find_largest(largest, left, maxima, window);
        // Store.
        const bool stores = emits && y < pooled_rows - first_row;
        uint32_t words[kTiles];
        if constexpr (std::is_same_v<T, BFloat>) round(words, largest, unscale_pairs);
        uint32_t bytes[8 / kRun][kRun / 4];
        if constexpr (kKeys) {
          find_codes(bytes, largest, window);
        } else if constexpr (kSave) {
          uint32_t left_codes[kTiles];
          shared.exchange.get(y % 2, kValues, left_codes);
          find_codes(bytes, codes, left_codes, largest, maxima, left);
        }
#pragma unroll
        for (int run = 0; run < 8 / kRun; ++run) {
          const int64_t offset = at + run * 4 * kRun;
          const int count = channels - run * 4 * kRun;
          if (!stores || count <= 0) continue;
          if constexpr (std::is_same_v<T, BFloat>) {
            store_words(out + offset, words, count, p.aligned);
          } else {
            float values[kRun], unscale[kRun];
            load_floats(unscale, unscale_from + run * 4 * kRun);
#pragma unroll
            for (int v = 0; v < kRun; ++v) {
              const float value = value_of(largest[run * kRun + v]) * unscale[v];
              values[v] = kKeys ? value : max_or_nan(value, 0);  // keys of ReLU's zero are the least
            }
            store_vector<T>(out + offset, values, count, p.aligned);
          }
          if constexpr (kSave) store_codes(p.code + offset, bytes[run], count, p.aligned);
        }
      }
    }
  });
}

template <int kResidual, class T, bool kSave>
Status launch_stem_forward(const Problem<kResidual, T>& problem, Device device, T* out, Stream stream) {
  const unsigned blocks = persistent_blocks(problem.tiling.count, device, kBlocks<kResidual>);
  return launch<Shared<kResidual, T, kSave>>("stem_forward_kernel", stem_forward_kernel<kResidual, T, kSave>, blocks,
                                             kThreads<kResidual>, stream, problem, out);
}

template <int kResidual, class T>
Status stem_forward_tensor_cores(const StemForward& op, Device device, void* workspace, Stream stream) {
  const Tiling tiling = tiling_of<kResidual>(op.images);
  if (const Status status = tiling.check(op.images); !status.ok()) return status;
  const auto weights = PackedWeights<kResidual, kVector<T>>::at(workspace, op.outputs);
  const Status prepared =
      prepare_weights(folding_of(op), op.channel_scale, weights, weights.channels(op.outputs), op.fast, stream);
  if (!prepared.ok()) return prepared;
  const bool aligned = op.outputs % kVector<T> == 0 && reinterpret_cast<uintptr_t>(op.out) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(op.code) % kVector<T> == 0;
  const Problem<kResidual, T> problem{tiling, weights, op.outputs, op.code, op.fast, aligned};
  T* out = static_cast<T*>(op.out);
  return op.code != nullptr ? launch_stem_forward<kResidual, T, true>(problem, device, out, stream)
                            : launch_stem_forward<kResidual, T, false>(problem, device, out, stream);
}

}  // namespace

// ---- Launchers -------------------------------------------------------------------------------------

int64_t stem_forward_workspace(const StemForward& op, Device) { return weights_bytes(op.source(), op.outputs); }

Status stem_forward(const StemForward& op, Device device, void* workspace, Stream stream) {
  if (const Status status = check_channels(op.source()); !status.ok()) return status;
  if (op.images.channels != kChannels || op.type == Type::f64)
    return stem_forward_plainly(op, device, workspace, stream);
  return with_residual(op.residual, [&](auto residual) {
    switch (op.type) {
      case Type::bf16: return stem_forward_tensor_cores<residual(), BFloat>(op, device, workspace, stream);
      case Type::f16: return stem_forward_tensor_cores<residual(), Half>(op, device, workspace, stream);
      default: return stem_forward_tensor_cores<residual(), float>(op, device, workspace, stream);
    }
  });
}

}  // namespace npr::cuda
