// The table of one instruction set.
#include "cpu/kernels.h"

namespace npr::cpu::NPR_ISA {

void conv_forward(const ConvForward&, int64_t first, int64_t last);
void conv_backward(const ConvBackward&, int64_t first, int64_t last);
void patch_moments(const PatchMoments&, int64_t first, int64_t last);
void stem_forward(const StemForward&, int64_t first, int64_t last);
void stem_backward(const StemBackward&, int64_t first, int64_t last);
void bottleneck(const Bottleneck&, int64_t first, int64_t last);
void trained_conv_forward(const TrainedConvForward&, int64_t first, int64_t last);
void trained_conv_backward(const TrainedConvBackward&, int64_t first, int64_t last);
void block_end(const BlockEnd&, int64_t first, int64_t last);
void block_end_sums(const BlockEndSums&, int64_t first, int64_t last);
void quantised_bottleneck(const QuantisedBottleneck&, int64_t first, int64_t last);
void quantise(const Quantise&, int64_t first, int64_t last);
void coherence(const Coherence&, int64_t first, int64_t last);
void profiles(const Profiles&, int64_t first, int64_t last);
void texture(const Texture&, int64_t first, int64_t last);
int64_t multiply_adds(int64_t steps);

#define NPR_STRING_(x) #x
#define NPR_STRING(x) NPR_STRING_(x)
extern const Kernels table;
const Kernels table = {NPR_STRING(NPR_ISA),
                       conv_forward,
                       conv_backward,
                       patch_moments,
                       stem_forward,
                       stem_backward,
                       bottleneck,
                       trained_conv_forward,
                       trained_conv_backward,
                       block_end,
                       block_end_sums,
                       quantised_bottleneck,
                       quantise,
                       coherence,
                       profiles,
                       texture,
                       multiply_adds};

}  // namespace npr::cpu::NPR_ISA
