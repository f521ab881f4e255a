// Where a step's time goes: the first thread past the end of a phase notes the clock (any fixed thread may have lost its core to
// another process, while the others go on). Switched off it costs one predictable branch a phase.
#pragma once
#include <stdint.h>

namespace deepwell {

enum Phase : int {
  kPhaseEmbed = 0,
  kPhaseNorm,  // norm and quantise, before every product
  kPhaseQkv,
  kPhaseAttention,
  kPhaseO,
  kPhaseGateUp,
  kPhaseDown,
  kPhaseHead,
  kPhaseBetween,  // from the end of a step to the begin of the next of its kind: sampler, scheduler, delivery
  kPhases
};

struct Profile {
  bool on;
  uint64_t last_ns;  // end of the phase before
  int kind;          // of the step: 1 decode, every row another sequence, as many as any such step had; 2 decode of fewer; 0 any other
  int seqs;          // the most sequences of a decode step so far
  uint32_t ended;    // phases of this step that are over
  uint64_t steps[3], ns[3][kPhases];
};

extern Profile profile;

void profile_begin_step(int tid, bool decode, int seqs);
void profile_end_phase(Phase phase);

// A macro, not an inline function: see common.h. To be called where every thread has passed the phase's barrier.
#define DW_STEP_BEGINS(tid, decode, seqs) \
  do {                                    \
    if (__builtin_expect(profile.on, 0)) profile_begin_step(tid, decode, seqs); \
  } while (0)
#define DW_PHASE_ENDS(phase) \
  do {                       \
    if (__builtin_expect(profile.on, 0)) profile_end_phase(phase); \
  } while (0)

}  // namespace deepwell
