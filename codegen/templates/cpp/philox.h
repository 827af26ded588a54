// Random numbers as a function: Philox4x32-10 of Salmon et al. 2011, "Parallel random numbers: as
// easy as 1, 2, 3", section 3.2, bit for bit as in runtime/philox.py.
#pragma once

#include <cstdint>

namespace gopt {

struct Words {
  uint32_t w[4];
};

// Four random words for a counter and a key of two words.
inline Words philox(Words counter, uint32_t key0, uint32_t key1) {
  uint32_t* c = counter.w;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t(0xD2511F53) * c[0];
    const uint64_t product1 = uint64_t(0xCD9E8D57) * c[2];
    counter = {{uint32_t(product1 >> 32) ^ c[1] ^ key0, uint32_t(product1),
                uint32_t(product0 >> 32) ^ c[3] ^ key1, uint32_t(product0)}};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

// A number in [0, 1) with 53 random bits, for token `counter` of sample `stream` of a request.
inline double uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
  const Words from = {{uint32_t(counter), uint32_t(counter >> 32), uint32_t(stream), 0}};
  const Words words = philox(from, uint32_t(seed), uint32_t(seed >> 32));
  return (double(words.w[0] >> 5) * 67108864.0 + double(words.w[1] >> 6)) / 9007199254740992.0;
}

}  // namespace gopt
