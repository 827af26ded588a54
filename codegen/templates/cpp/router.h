// The router of a mixture of experts: which experts a token goes to, and with what weights.
//
// One token at a time; a thread's work. Of equal scores the expert that stands first wins.
#pragma once

#include "row.h"

namespace gopt {

enum class Scores { Softmax, Sigmoid, ChosenSoftmax, ChosenSigmoid };

struct RouterSettings {
  int64_t k, groups, top_groups;
  bool group_sum;   // a group is as good as its two best scores, not as its best
  bool normalized;  // weights are divided by max(their sum, least) + epsilon
  float masked;     // what experts outside the best groups count as
  float least, epsilon, scale;
};

inline void softmax_of(float* x, int64_t count) {
  const float top = max_columns(count, [&](int64_t i, auto n) { return load_n(x + i, n); });
  for (int64_t i = 0; i < count; ++i) x[i] = exp(x[i] - top);
  const float share = 1 / sum_columns(count, [&](int64_t i, auto n) { return load_n(x + i, n); });
  for (int64_t i = 0; i < count; ++i) x[i] *= share;
}
inline void sigmoid_of(float* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] = 1 / (1 + exp(-x[i]));
}

// Experts outside the best groups count as `masked`.
template <int64_t EXPERTS>
void limit_groups(float* choice, const RouterSettings& set) {
  const int64_t size = EXPERTS / set.groups;
  float merit[EXPERTS];
  for (int64_t group = 0; group < set.groups; ++group) {
    const float* own = choice + group * size;
    float values[2];
    int64_t places[2];
    top_k(own, size, set.group_sum ? 2 : 1, true, values, places);
    merit[group] = set.group_sum ? values[0] + values[1] : values[0];
  }
  float best[EXPERTS];
  int64_t places[EXPERTS];
  top_k(merit, set.groups, set.top_groups, true, best, places);
  bool inside[EXPERTS] = {};
  for (int64_t i = 0; i < set.top_groups; ++i) inside[places[i]] = true;
  for (int64_t i = 0; i < EXPERTS; ++i)
    if (!inside[i / size]) choice[i] = set.masked;
}

// logits[EXPERTS] and bias[EXPERTS], or no bias, to weights[k] and ids[k], the greatest first.
template <Scores SCORES, int64_t EXPERTS>
void route(const float* logits, const float* bias, const RouterSettings& set, float* weights,
           int64_t* ids) {
  float scores[EXPERTS], choice[EXPERTS];
  std::copy(logits, logits + EXPERTS, scores);
  if (SCORES == Scores::Softmax) softmax_of(scores, EXPERTS);
  if (SCORES == Scores::Sigmoid) sigmoid_of(scores, EXPERTS);
  for (int64_t i = 0; i < EXPERTS; ++i) choice[i] = bias ? scores[i] + bias[i] : scores[i];
  if (set.groups != set.top_groups) limit_groups<EXPERTS>(choice, set);
  top_k(choice, EXPERTS, set.k, true, weights, ids);
  for (int64_t i = 0; i < set.k; ++i) weights[i] = scores[ids[i]];
  if (SCORES == Scores::ChosenSoftmax) softmax_of(weights, set.k);
  if (SCORES == Scores::ChosenSigmoid) sigmoid_of(weights, set.k);
  float divisor = 1;
  if (set.normalized) {
    float total = 0;
    for (int64_t i = 0; i < set.k; ++i) total += weights[i];
    divisor = maximum(total, set.least) + set.epsilon;
  }
  for (int64_t i = 0; i < set.k; ++i) weights[i] = weights[i] / divisor * set.scale;
}

}  // namespace gopt
