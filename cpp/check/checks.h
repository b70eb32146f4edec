// Every check is a function that takes one record of the file. tests/core_cases.py says what a
// record of each kind holds, and contract_check.cpp which check takes it.
#pragma once

#include "case_reader.h"
#include "context.h"

namespace resmem {

void check_search(Context& context, Reader& reader);
void check_wide_search(Context& context, Reader& reader);

void check_exp(Context& context, Reader& reader);
void check_log(Context& context, Reader& reader);
void check_softmax(Context& context, Reader& reader);

void check_numbers(Context& context, Reader& reader);

void check_residuals(Context& context, Reader& reader);
void check_sparse(Context& context, Reader& reader);
void check_logits(Context& context, Reader& reader);

void check_weights(Context& context, Reader& reader);
void check_aggregate(Context& context, Reader& reader);

void check_simplex(Context& context, Reader& reader);

void check_sweep(Context& context, Reader& reader);

}  // namespace resmem
