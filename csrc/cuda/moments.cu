// Moments of the patches: their number, the sum of d and of d d^T, exactly.
//
// Batch normalisation's statistics of a convolution that is linear in d follow from these 1 + 24 + 576
// integers. patches^T patches on tensor cores: outputs are the MMA's k; the transposed load of a patch
// matrix is an A and a B fragment at once. A row of ones in A gives the sums of d. A product of two
// differences is at most 255^2, so 64 of them stay below 2^22 and float32 sums of them are exact; a warp
// meets so many in a tile. It adds them up in int32 over at most 512 tiles, blocks add up in int64.
//
// Bytes: 12 read per output; 256 images of 256x256 are 50 MB. Instructions of a warp for 16 outputs:
// 6 MMA, 2 ldmatrix, 12 additions, and about 30 to form the patches, which decide. Three blocks of 8 warps
// fit a multiprocessor (80 registers a thread, 38 KB of shared memory a block).
//
// Other than 3 channels take a plain kernel, a block for each pair of taps, and are at most 8191.
#include "cuda/patches.cuh"
#include "cuda/plain.cuh"

namespace npr::cuda {
namespace {

constexpr int kPatch = kChannels * kTaps;

// ---- Tensor cores ----------------------------------------------------------------------------------

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kBlocks = 3;  // blocks of a multiprocessor
constexpr int kMaxTiles = 512;                                         // of a block
constexpr int kOutputs = 16;                                           // of an MMA

using Tile = PatchTile<Half, 8, 64>;
constexpr int kSegments = Tile::kCols / kOutputs, kItems = Tile::kRows * kSegments;
constexpr int kMaxProduct = 255 * 255;
static_assert(kItems / kWarps * kOutputs * kMaxProduct < 1 << 22);
static_assert(int64_t(kMaxTiles) * kItems / kWarps * kOutputs * kMaxProduct < int64_t(1) << 31);

// Rows 0..23 of the sums are those of d d^T, row 24 is the sum of d.
constexpr int kRows = kPatch + 1, kSums = kRows * kPatch;

// Zeroes the numbers of a fragment's word that belong to outputs number `first` and first + 1 where they do not exist.
__device__ uint32_t mask_outputs(uint32_t word, int first, int count) {
  return first + 1 < count ? word : first < count ? word & 0xffff : 0;
}

__global__ void __launch_bounds__(kThreads, kBlocks) moments_kernel(Tiling tiling, int64_t* partial) {
  __shared__ Tile patches;
  __shared__ int64_t block_sums[kSums];
  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  int sums[2][kChannels][4] = {};

  for_each_tile(tiling, patches, [&](const Tiling::Position& tile) {
    float products[2][kChannels][4] = {};
#pragma unroll 1
    for (int item = warp_index(); item < kItems; item += kWarps) {
      const int y = item / kSegments, x = item % kSegments * kOutputs;
      if (tile.row + y >= tiling.rows || tile.col + x >= tiling.cols) continue;
      const int position = y * Tile::kCols + x + lane % 16, count = tiling.cols - tile.col - x;

      uint32_t first[4], last[4];  // channels 0 and 1, channel 2 twice: [channel][half of k]
      load_matrices<true>(first, patches.patch(lane / 16, position));
      load_matrices<true>(last, patches.patch(2, position));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        first[i] = mask_outputs(first[i], 2 * t + i % 2 * 8, count);
        last[i] = mask_outputs(last[i], 2 * t + i % 2 * 8, count);
      }
      constexpr uint32_t kOnes = 0x3c003c00;
      const uint32_t ones = g == 0 ? kOnes : 0;
      const uint32_t rows01[4] = {first[0], first[2], first[1], first[3]}, rows2[4] = {last[0], ones, last[1], ones};
      const uint32_t columns[kChannels][2] = {{first[0], first[1]}, {first[2], first[3]}, {last[0], last[1]}};
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        multiply_add<Half>(products[0][c], rows01, columns[c]);
        multiply_add<Half>(products[1][c], rows2, columns[c]);
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          // An integer below 2^22 plus 1.5 * 2^23 has it in its low bits, in two's complement.
          constexpr float kShift = 12582912.0f;
          sums[m][c][i] += int(__float_as_uint(products[m][c][i] + kShift) - 0x4b400000u);
        }
      }
    }
  });

  for (int i = threadIdx.x; i < kSums; i += kThreads) block_sums[i] = 0;
  __syncthreads();
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn == warp_index()) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int c = 0; c < kChannels; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int row = 16 * m + g + i / 2 * 8, column = c * kTaps + 2 * t + i % 2;
            if (row < kRows) block_sums[row * kPatch + column] += sums[m][c][i];
          }
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < kSums; i += kThreads) partial[int64_t(blockIdx.x) * kSums + i] = block_sums[i];
}

// moments = the sum of the blocks' partial sums, and the number of outputs. A warp's lanes are neighbouring elements,
// its block's warps take every eighth partial sum.
constexpr int kSlices = 8;

__global__ void __launch_bounds__(kSlices* kWarp)
    moments_finish(const int64_t* partial, int blocks, int64_t outputs, int64_t* moments) {
  __shared__ int64_t slices[kSlices][kWarp];
  const int element = int(blockIdx.x) * kWarp + lane_index(), slice = warp_index();
  int64_t sum = 0;
  if (element < kSums) {
#pragma unroll 8
    for (int block = slice; block < blocks; block += kSlices) sum += partial[int64_t(block) * kSums + element];
  }
  slices[slice][lane_index()] = sum;
  __syncthreads();
  if (slice != 0 || element >= kSums) return;
  for (int i = 1; i < kSlices; ++i) sum += slices[i][lane_index()];
  const int row = element / kPatch, column = element % kPatch;
  moments[row < kPatch ? 1 + kPatch + element : 1 + column] = sum;
  if (element == 0) moments[0] = outputs;
}

unsigned blocks_for(const Tiling& tiling, Device device) {
  return std::max(persistent_blocks(tiling.count, device, kBlocks), unsigned(ceil_div(tiling.count, kMaxTiles)));
}

// ---- Plain -----------------------------------------------------------------------------------------

// A grid has at most 2^16 - 1 blocks in y: those of the taps, and one.
constexpr int64_t kMostPlainChannels = ((1 << 16) - 2) / kTaps;
static_assert(kMostPlainChannels == 8191);

// Block (k, l): the sum of d[k] d[l], and with l = taps the sum of d[k].
__global__ void __launch_bounds__(kPlainThreads) moments_plain(Images images, int64_t* moments) {
  __shared__ int64_t threads[kPlainThreads];
  const int k = blockIdx.x, l = blockIdx.y, taps = int(patch_size(images));
  const int64_t rows = images.rows(), cols = images.cols(), total = images.batch * rows * cols;
  int64_t sum = 0;
  for (int64_t i = threadIdx.x; i < total; i += kPlainThreads) {
    const int64_t col = i % cols, row = i / cols % rows;
    const uint8_t* image = images.data + i / cols / rows * images.stride_n;
    const auto d = [&](int tap) {
      return difference(images, image + tap / kTaps * images.stride_c, row, col, tap % kTaps);
    };
    sum += d(k) * (l < taps ? d(l) : 1);
  }
  threads[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kPlainThreads; ++i) sum += threads[i];
  moments[l < taps ? 1 + taps + int64_t(k) * taps + l : 1 + k] = sum;
  if (k == 0 && l == 0) moments[0] = total;
}

}  // namespace

// ---- Launchers -------------------------------------------------------------------------------------

int64_t moments_workspace(const Moments& op, Device device) {
  return op.images.channels == kChannels ? blocks_for(Tiling::of<Tile>(op.images), device) * int64_t(kSums) * 8 : 0;
}

Status moments(const Moments& op, Device device, void* workspace, Stream stream) {
  if (op.images.channels > kMostPlainChannels) return {"moments", "images have more than 8191 channels"};
  if (op.images.channels != kChannels) {
    const auto taps = unsigned(patch_size(op.images));
    return launch("moments_plain", moments_plain, dim3(taps, taps + 1), kPlainThreads, stream, op.images, op.moments);
  }
  const Tiling tiling = Tiling::of<Tile>(op.images);
  if (const Status status = tiling.check(op.images); !status.ok()) return status;
  const unsigned blocks = blocks_for(tiling, device);
  auto* partial = static_cast<int64_t*>(workspace);
  const Status status = launch("moments_kernel", moments_kernel, blocks, kThreads, stream, tiling, partial);
  if (!status.ok()) return status;
  const int64_t outputs = op.images.batch * op.images.rows() * op.images.cols();
  return launch("moments_finish", moments_finish, unsigned(ceil_div(kSums, kWarp)), kSlices * kWarp, stream,
                static_cast<const int64_t*>(partial), int(blocks), outputs, op.moments);
}

}  // namespace npr::cuda
