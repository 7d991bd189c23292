//! Address templates: `{{ GetPrivateIP }}` and what people write around it, a small part of Go's template language
//! with the functions of its address library.

use std::collections::BTreeMap;

use super::interfaces::InterfaceAddress;
use functions::Value;
use syntax::{Call, Node, Operand, Pipeline};

mod functions;
mod syntax;

/// Deeper blocks and parentheses than this are refused.
const MAX_DEPTH: usize = 32;
/// A result larger than this is a mistake.
const MAX_RESULT: usize = 64 * 1024;

/// Evaluates a text that may hold templates, over the interfaces of a machine. The error says what is wrong.
pub(crate) fn evaluate(text: &str, interfaces: &[InterfaceAddress]) -> Result<String, String> {
    let nodes = syntax::parse(text)?;
    let mut evaluation = Evaluation { interfaces, result: String::new(), variables: BTreeMap::new() };
    evaluation.nodes(&nodes, &Value::Nothing)?;
    Ok(evaluation.result)
}

struct Evaluation<'a> {
    interfaces: &'a [InterfaceAddress],
    result: String,
    variables: BTreeMap<String, Value>,
}

impl Evaluation<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), String> {
        nodes.iter().try_for_each(|node| self.node(node, dot))
    }

    fn write(&mut self, text: &str) -> Result<(), String> {
        self.result.push_str(text);
        if self.result.len() > MAX_RESULT { Err("the result is too long".into()) } else { Ok(()) }
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), String> {
        match node {
            Node::Text(text) => self.write(text),
            Node::Value(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variable.is_some() { Ok(()) } else { self.write(&value.to_string()) }
            }
            Node::If { condition, then, otherwise } => {
                let branch = if self.pipeline(condition, dot)?.is_true() { then } else { otherwise };
                self.nodes(branch, dot)
            }
            Node::With { value, then, otherwise } => {
                let value = self.pipeline(value, dot)?;
                if value.is_true() { self.nodes(then, &value) } else { self.nodes(otherwise, dot) }
            }
            Node::Range { over, each, otherwise } => match self.pipeline(over, dot)? {
                Value::Addresses(all) if !all.is_empty() => {
                    for address in all {
                        let element = Value::Address(address);
                        if let Some(name) = &over.variable {
                            self.variables.insert(name.clone(), element.clone());
                        }
                        self.nodes(each, &element)?;
                    }
                    Ok(())
                }
                Value::Addresses(_) | Value::Nothing => self.nodes(otherwise, dot),
                other => Err(format!("range can't iterate over {other}")),
            },
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut value = None;
        for call in &pipeline.calls {
            value = Some(self.call(call, value, dot)?);
        }
        let value = value.unwrap_or(Value::Nothing);
        if let Some(name) = &pipeline.variable {
            self.variables.insert(name.clone(), value.clone());
        }
        Ok(value)
    }

    fn call(&mut self, call: &Call, piped: Option<Value>, dot: &Value) -> Result<Value, String> {
        match &call.function {
            Operand::Function(name) => {
                let mut arguments =
                    call.arguments.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
                arguments.extend(piped);
                functions::call(name, arguments, self.interfaces)
            }
            operand if call.arguments.is_empty() && piped.is_none() => self.operand(operand, dot),
            _ => Err("only a function can take arguments".into()),
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Text(text) => Ok(Value::Text(text.clone())),
            Operand::Number(number) => Ok(Value::Number(*number)),
            Operand::Bool(flag) => Ok(Value::Bool(*flag)),
            Operand::Dot => Ok(dot.clone()),
            Operand::Field(name) => functions::field(dot, name),
            Operand::Variable(name, field) => {
                let value = self.variables.get(name).cloned().ok_or_else(|| format!("undefined variable ${name}"))?;
                match field {
                    Some(field) => functions::field(&value, field),
                    None => Ok(value),
                }
            }
            Operand::Function(name) => functions::call(name, Vec::new(), self.interfaces),
            Operand::Nested(pipeline) => self.pipeline(pipeline, dot),
        }
    }
}

#[cfg(test)]
mod tests;
