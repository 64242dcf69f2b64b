// Moments of the patches: their number, the sum of d and of d d^T, exactly.
//
// Batch normalisation's statistics of a convolution that is linear in d follow from these 1 + K + K^2 integers, K = 24
// of npr. patches^T patches on tensor cores: outputs are the MMA's k; the transposed load of a patch matrix is an A and
// a B fragment at once. Products are symmetric, so only the tiles on and above the diagonal are made, and a column of
// ones gives the sums of d: the constant one of a patch (slots.cuh), or where there is none an octet of ones.
//
// Sums are exact in float32 as long as they are small: they start from a number whose last bit is worth one, and go to
// int32 before they could reach 2^22. Products of npr are at most 255^2, and 64 of them stay below that, which is what
// a warp meets in a tile; Haar's are at most 510^2, and 16 do, which is an MMA. A warp adds them up in int32 over as
// many tiles as that holds, blocks add up in int64.
//
// Bytes: 12 read per output; 256 images of 256x256 are 50 MB. Instructions of a warp for 16 outputs of npr:
// 6 MMA, 2 ldmatrix, 6 additions, and about 30 to form the patches, which decide. Three blocks of 8 warps
// fit a multiprocessor (80 registers a thread, 38 KB of shared memory a block).
//
// Other than 3 channels take a plain kernel, and are at most 8191, or fewer where taps are more.
#include "cuda/patches.cuh"
#include "cuda/plain.cuh"

namespace npr::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kOutputs = 16;  // of an MMA

template <int kResidual>
constexpr int kBlocks = Slots<kResidual>::kHaar ? 2 : 3;  // of a multiprocessor; forming Haar's patches takes registers

template <int kResidual>
using TileOf = PatchTile<kResidual, Half, 8, kTileCols<kResidual>>;

// The products that are made: MMA tiles of the octets 2m and 2m + 1 with octet c, the first that is not made already.
template <int kResidual>
struct Products {
  using Octets = Slots<kResidual>;
  static constexpr int kColumns = Octets::kColumns;
  static constexpr int kSquares = (Octets::kOctets + 1) / 2;

  static constexpr int kCount = [] {
    int count = 0;
    for (int m = 0; m < kSquares; ++m) count += kColumns - 2 * m;
    return count;
  }();

  // More than eight tiles are shared among groups of warps, for registers.
  static constexpr int kGroups = (kCount + 7) / 8, kOfGroup = kCount / kGroups;
  static_assert(kCount % kGroups == 0 && kWarps % kGroups == 0 && kGroups <= 2);

  struct Product {
    int square, column;
  };
  NPR_HOST_DEVICE static constexpr Product product(int number) {
    int square = 0;
    while (number >= kColumns - 2 * square) number -= kColumns - 2 * square++;
    return {square, 2 * square + number};
  }
  // The product number that holds rows of octet `row` and columns of octet `column` >= row.
  NPR_HOST_DEVICE static constexpr int number(int row, int column) {
    int first = 0;
    for (int m = 0; m < row / 2; ++m) first += kColumns - 2 * m;
    return first + column - row / 2 * 2;
  }

  // Where the sum of slot times another, not smaller one is among the sums [product][column of 8][row of 16].
  static constexpr int kSums = kCount * 128;
  NPR_HOST_DEVICE static constexpr int at(int slot, int other) {
    const int row = slot / kOctet, column = other / kOctet;
    return (number(row, column) * kOctet + other % kOctet) * 16 + row % 2 * kOctet + slot % kOctet;
  }

  // How many items, of 16 outputs, float32 holds, how many a warp meets in a tile, and for how many tiles int32 will
  // do.
  static constexpr int64_t kLargest = int64_t(Octets::kRead.largest) * Octets::kRead.largest * kOutputs;
  static constexpr int kSegments = TileOf<kResidual>::kCols / kOutputs, kItems = TileOf<kResidual>::kRows * kSegments;
  static constexpr int kStep = kWarps / kGroups, kOfWarp = kItems / kStep;
  static constexpr int kExact = int(std::min<int64_t>(((1 << 22) - 1) / kLargest, kOfWarp));
  static constexpr int kMaxTiles = int(((int64_t(1) << 31) - 1) / (kOfWarp * kLargest));
  static_assert(kItems % kStep == 0 && kExact > 0 && kOfWarp % kExact == 0);
};

// Zeroes the numbers of a fragment's word that belong to outputs number `first` and first + 1 where they do not exist.
__device__ uint32_t mask_outputs(uint32_t word, int first, int count) {
  return first + 1 < count ? word : first < count ? word & 0xffff : 0;
}

// 1.5 2^23: plus an integer below 2^22, it has that in its low bits, in two's complement.
constexpr float kShift = 12582912.0f;
constexpr uint32_t kShiftBits = 0x4b400000;

// The products of one group, of which this warp takes every kStep-th item of a tile.
template <int kResidual, int kGroup>
__device__ void add_products(int (&sums)[Products<kResidual>::kOfGroup][4], const TileOf<kResidual>& patches, int first,
                             int rows, int cols) {
  using P = Products<kResidual>;
  constexpr int kOctets = P::Octets::kOctets;
  const int lane = lane_index(), t = lane % 4;
  const uint32_t ones = lane / 4 == P::Octets::kOne % kOctet ? pack<Half>(1.0f, 1.0f) : 0;  // a column of a B fragment
#pragma unroll 1
  for (int flush = 0; flush < P::kOfWarp / P::kExact; ++flush) {
    Accumulator products[P::kOfGroup];
#pragma unroll
    for (auto& product : products) product = {{kShift, kShift, kShift, kShift}};
#pragma unroll 1
    for (int i = 0; i < P::kExact; ++i) {
      const int item = first + (flush * P::kExact + i) * P::kStep;
      const int y = item / P::kSegments, x = item % P::kSegments * kOutputs;
      if (y >= rows || x >= cols) continue;
      const int position = y * TileOf<kResidual>::kCols + x + lane % 16, count = cols - x;

      uint32_t words[(kOctets + 1) / 2][4];  // of two octets: [octet][half of k]
#pragma unroll
      for (int pair = 0; pair < (kOctets + 1) / 2; ++pair) {
        load_matrices<true>(words[pair], patches.patch(min(2 * pair + lane / 16, kOctets - 1), position));
      }
      if (count < kOutputs) {
#pragma unroll
        for (auto& four : words) {
#pragma unroll
          for (int i = 0; i < 4; ++i) four[i] = mask_outputs(four[i], 2 * t + i % 2 * 8, count);
        }
      }
      unrolled<P::kOfGroup>([&](auto i) {
        constexpr auto kProduct = P::product(kGroup * P::kOfGroup + i.value);
        constexpr int kSquare = kProduct.square, kColumn = kProduct.column;
        constexpr bool kBoth = 2 * kSquare + 1 < kOctets;
        const auto& rows16 = words[kSquare];
        const FragmentA a{rows16[0], kBoth ? rows16[2] : 0, rows16[1], kBoth ? rows16[3] : 0};
        if constexpr (kColumn < kOctets) {
          const auto& columns = words[kColumn / 2];
          constexpr int kOf = kColumn % 2 * 2;
          multiply_add<Half>(products[i.value], a, FragmentB{columns[kOf], columns[kOf + 1]});
        } else {
          multiply_add<Half>(products[i.value], a, FragmentB{ones, ones});
        }
      });
    }
#pragma unroll
    for (int i = 0; i < P::kOfGroup; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][j] += int(__float_as_uint(products[i].values[j]) - kShiftBits);
    }
  }
}

template <int kResidual>
__global__ void __launch_bounds__(kThreads, kBlocks<kResidual>) moments_kernel(Tiling tiling, int64_t* partial) {
  using P = Products<kResidual>;
  __shared__ union {
    TileOf<kResidual> patches;
    int64_t sums[P::kSums];
  } shared;
  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  const int group = warp_index() % P::kGroups, first = warp_index() / P::kGroups;
  int sums[P::kOfGroup][4] = {};

  for_each_tile(tiling, shared.patches, [&](const Tiling::Position& tile) {
    const int rows = tiling.rows - tile.row, cols = tiling.cols - tile.col;
    if (P::kGroups == 1 || group == 0) {
      add_products<kResidual, 0>(sums, shared.patches, first, rows, cols);
    } else {
      add_products<kResidual, P::kGroups - 1>(sums, shared.patches, first, rows, cols);
    }
  });

  __syncthreads();
  for (int i = threadIdx.x; i < P::kSums; i += kThreads) shared.sums[i] = 0;
  __syncthreads();
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn == warp_index()) {
#pragma unroll
      for (int i = 0; i < P::kOfGroup; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int row = g + j / 2 * 8, column = 2 * t + j % 2;
          shared.sums[((group * P::kOfGroup + i) * kOctet + column) * 16 + row] += sums[i][j];
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < P::kSums; i += kThreads) partial[int64_t(blockIdx.x) * P::kSums + i] = shared.sums[i];
}

// moments = the sum of the blocks' partial sums, and the number of outputs. A warp's lanes are neighbouring elements of
// 1 + K + K^2, its block's warps take every eighth partial sum.
constexpr int kSlices = 8;

template <int kResidual>
__global__ void __launch_bounds__(kSlices* kWarp)
    moments_finish(const int64_t* partial, int blocks, int64_t outputs, int64_t* moments) {
  using P = Products<kResidual>;
  constexpr int kTaps = P::Octets::kTaps, kCount = 1 + kTaps + kTaps * kTaps;
  __shared__ int64_t slices[kSlices][kWarp];
  const int element = int(blockIdx.x) * kWarp + lane_index(), slice = warp_index();
  int64_t sum = 0;
  if (element > 0 && element < kCount) {
    const int row = (element - 1 - kTaps) / kTaps, column = (element - 1 - kTaps) % kTaps;
    const int first = P::Octets::slot(element <= kTaps ? element - 1 : row);
    const int second = element <= kTaps ? P::Octets::kOne : P::Octets::slot(column);
    const int at = P::at(min(first, second), max(first, second));
#pragma unroll 8
    for (int block = slice; block < blocks; block += kSlices) sum += partial[int64_t(block) * P::kSums + at];
  }
  slices[slice][lane_index()] = sum;
  __syncthreads();
  if (slice != 0 || element >= kCount) return;
  for (int i = 1; i < kSlices; ++i) sum += slices[i][lane_index()];
  moments[element] = element == 0 ? outputs : sum;
}

template <int kResidual>
unsigned blocks_for(const Tiling& tiling, Device device) {
  return std::max(persistent_blocks(tiling.count, device, kBlocks<kResidual>),
                  unsigned(ceil_div(tiling.count, Products<kResidual>::kMaxTiles)));
}

template <int kResidual>
Status moments_on_tensor_cores(const Moments& op, Device device, void* workspace, Stream stream) {
  const Tiling tiling = Tiling::of<TileOf<kResidual>>(op.images);
  if (const Status status = tiling.check(op.images); !status.ok()) return status;
  const unsigned blocks = blocks_for<kResidual>(tiling, device);
  auto* partial = static_cast<int64_t*>(workspace);
  const Status status = launch("moments_kernel", moments_kernel<kResidual>, blocks, kThreads, stream, tiling, partial);
  if (!status.ok()) return status;
  constexpr int kTaps = Slots<kResidual>::kTaps;
  const int64_t outputs = op.images.batch * op.images.rows() * op.images.cols();
  return launch("moments_finish", moments_finish<kResidual>, unsigned(ceil_div(1 + kTaps + kTaps * kTaps, kWarp)),
                kSlices * kWarp, stream, static_cast<const int64_t*>(partial), int(blocks), outputs, op.moments);
}

}  // namespace

// ---- Launchers -------------------------------------------------------------------------------------

int64_t moments_workspace(const Moments& op, Device device) {
  if (op.images.channels != kChannels) return 0;
  return with_residual(op.residual, [&](auto residual) {
    const Tiling tiling = Tiling::of<TileOf<residual()>>(op.images);
    return blocks_for<residual()>(tiling, device) * int64_t(Products<residual()>::kSums) * 8;
  });
}

Status moments(const Moments& op, Device device, void* workspace, Stream stream) {
  if (op.images.channels != kChannels) return moments_plainly(op, stream);
  return with_residual(
      op.residual, [&](auto residual) { return moments_on_tensor_cores<residual()>(op, device, workspace, stream); });
}

}  // namespace npr::cuda
