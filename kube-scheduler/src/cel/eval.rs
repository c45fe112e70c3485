//! From a tree to a value.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cel::call;
use crate::cel::parse::{Expr, Op};
use crate::cel::value::Value;

/// Steps that one evaluation may take: some milliseconds. Upstream bounds the cost of a selector alike.
const MAX_STEPS: u64 = 200_000;

/// Variables, innermost last.
struct Scope<'a> {
    variables: Vec<(&'a str, Value)>,
    steps: &'a Cell<u64>,
}

/// Evaluates within the budget.
pub(crate) fn evaluate(expr: &Expr, variables: &[(&str, Value)]) -> Result<Value, String> {
    let steps = Cell::new(0);
    Scope { variables: variables.to_vec(), steps: &steps }.eval(expr)
}

impl<'a> Scope<'a> {
    fn eval(&mut self, expr: &'a Expr) -> Result<Value, String> {
        self.steps.set(self.steps.get() + 1);
        if self.steps.get() > MAX_STEPS {
            return Err("operation cancelled: actual cost limit exceeded".to_owned());
        }
        match expr {
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Ident(name) => self
                .variables
                .iter()
                .rev()
                .find(|(own, _)| own == name)
                .map(|(_, value)| value.clone())
                .ok_or_else(|| format!("undeclared reference to '{name}' (in container '')")),
            Expr::List(items) => Ok(Value::List(Arc::new(items.iter().map(|item| self.eval(item)).collect::<Result<_, _>>()?))),
            Expr::Map(entries) => {
                let mut out = BTreeMap::new();
                for (key, value) in entries {
                    match self.eval(key)? {
                        Value::Str(key) => out.insert(key.to_string(), self.eval(value)?),
                        other => return Err(format!("unsupported key type: {}", other.kind())),
                    };
                }
                Ok(Value::Map(Arc::new(out)))
            }
            Expr::Field(operand, field, optional) => {
                let operand = self.eval(operand)?;
                select(operand, &Value::from(field.as_str()), *optional)
            }
            Expr::Index(operand, key, optional) => {
                let (operand, key) = (self.eval(operand)?, self.eval(key)?);
                select(operand, &key, *optional)
            }
            Expr::Not(operand) => match self.eval(operand)? {
                Value::Bool(value) => Ok(Value::Bool(!value)),
                other => Err(format!("no such overload: !{}", other.kind())),
            },
            Expr::Negative(operand) => match self.eval(operand)? {
                Value::Int(value) => value.checked_neg().map(Value::Int).ok_or_else(|| "integer overflow".to_owned()),
                Value::Double(value) => Ok(Value::Double(-value)),
                other => Err(format!("no such overload: -{}", other.kind())),
            },
            Expr::Choice(condition, yes, no) => match self.eval(condition)? {
                Value::Bool(true) => self.eval(yes),
                Value::Bool(false) => self.eval(no),
                other => Err(format!("no such overload: {} ? :", other.kind())),
            },
            Expr::Binary(Op::Or, left, right) => self.either(left, right, true),
            Expr::Binary(Op::And, left, right) => self.either(left, right, false),
            Expr::Binary(op, left, right) => {
                let (left, right) = (self.eval(left)?, self.eval(right)?);
                binary(*op, &left, &right)
            }
            Expr::Call(receiver, name, args) => self.call(receiver.as_deref(), name, args),
        }
    }

    /// `||` and `&&`: an operand that decides wins, also over an error of the other one.
    fn either(&mut self, left: &'a Expr, right: &'a Expr, decides: bool) -> Result<Value, String> {
        let truth = |value: Result<Value, String>| match value? {
            Value::Bool(value) => Ok(value),
            other => Err(format!("no such overload: {}", other.kind())),
        };
        let first = truth(self.eval(left));
        if first == Ok(decides) {
            return Ok(Value::Bool(decides));
        }
        let second = truth(self.eval(right));
        if second == Ok(decides) {
            return Ok(Value::Bool(decides));
        }
        first?;
        second.map(Value::Bool)
    }

    fn call(&mut self, receiver: Option<&'a Expr>, name: &'a str, args: &'a [Expr]) -> Result<Value, String> {
        match (receiver, name, args) {
            (None, "has", [Expr::Field(operand, field, _)]) => {
                let operand = self.eval(operand)?;
                Ok(Value::Bool(matches!(&operand, Value::Map(map) | Value::Domains(map) if map.contains_key(field))))
            }
            (Some(Expr::Ident(namespace)), "bind", [Expr::Ident(variable), value, body]) if namespace == "cel" => {
                let value = self.eval(value)?;
                self.with(variable, value, body)
            }
            (Some(Expr::Ident(namespace)), "of" | "none" | "ofNonZeroValue", args) if namespace == "optional" => match args {
                [] => Ok(Value::Optional(None)),
                [value, ..] => Ok(Value::Optional(Some(Box::new(self.eval(value)?)))),
            },
            (
                Some(list),
                "all" | "exists" | "exists_one" | "existsOne" | "filter" | "map",
                [Expr::Ident(variable), bodies @ ..],
            ) if !bodies.is_empty() => {
                let items = items(self.eval(list)?)?;
                self.each(name, variable, items, bodies)
            }
            _ => {
                let receiver = receiver.map(|receiver| self.eval(receiver)).transpose()?;
                let args = args.iter().map(|arg| self.eval(arg)).collect::<Result<Vec<_>, _>>()?;
                call::call(receiver, name, &args)
            }
        }
    }

    fn with(&mut self, variable: &'a str, value: Value, body: &'a Expr) -> Result<Value, String> {
        self.variables.push((variable, value));
        let out = self.eval(body);
        self.variables.pop();
        out
    }

    /// The macros over lists and keys of maps.
    fn each(&mut self, name: &str, variable: &'a str, items: Vec<Value>, bodies: &'a [Expr]) -> Result<Value, String> {
        let (test, transform) = match bodies {
            [body] => (body, body),
            [test, transform, ..] => (test, transform),
            [] => return Err(format!("no such overload: {name}")),
        };
        let (mut hits, mut out, mut failed) = (0, Vec::new(), None);
        let count = items.len();
        for item in items {
            if name == "map" && bodies.len() == 1 {
                out.push(self.with(variable, item, transform)?);
                continue;
            }
            match self.with(variable, item.clone(), test) {
                Ok(Value::Bool(hit)) => {
                    hits += usize::from(hit);
                    match name {
                        "exists" if hit => return Ok(Value::Bool(true)),
                        "all" if !hit => return Ok(Value::Bool(false)),
                        "filter" if hit => out.push(item),
                        "map" if hit => out.push(self.with(variable, item, transform)?),
                        _ => {}
                    }
                }
                Ok(other) => failed = Some(format!("no such overload: {}", other.kind())),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(match name {
                "exists" => Value::Bool(false),
                "all" => Value::Bool(hits == count),
                "exists_one" | "existsOne" => Value::Bool(hits == 1),
                _ => Value::List(Arc::new(out)),
            }),
        }
    }
}

fn items(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::List(list) => Ok(list.to_vec()),
        Value::Map(map) | Value::Domains(map) => Ok(map.keys().map(|key| Value::from(key.as_str())).collect()),
        other => Err(format!("no such overload: cannot range over {}", other.kind())),
    }
}

fn select(operand: Value, key: &Value, optional: bool) -> Result<Value, String> {
    let operand = match operand {
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => return select(*inner, key, true),
        other => other,
    };
    let found = match (&operand, key) {
        (Value::Map(map), Value::Str(key)) => map.get(&**key).cloned(),
        (Value::Domains(map), Value::Str(key)) => {
            Some(map.get(&**key).cloned().unwrap_or_else(|| Value::Map(Arc::new(BTreeMap::new()))))
        }
        (Value::List(list), Value::Int(at)) => usize::try_from(*at).ok().and_then(|at| list.get(at)).cloned(),
        _ => return Err(format!("no such overload: {}[{}]", operand.kind(), key.kind())),
    };
    match (found, optional) {
        (found, true) => Ok(Value::Optional(found.map(Box::new))),
        (Some(found), false) => Ok(found),
        (None, false) => Err(match key {
            Value::Str(key) => format!("no such key: {key}"),
            Value::Int(at) => format!("index out of bounds: {at}"),
            _ => "no such key".to_owned(),
        }),
    }
}

fn binary(op: Op, left: &Value, right: &Value) -> Result<Value, String> {
    let overload = || format!("no such overload: {} {op:?} {}", left.kind(), right.kind());
    let overflow = || "integer overflow".to_owned();
    let ordered = |test: fn(Ordering) -> bool| left.order(right).map(|order| Value::Bool(test(order))).ok_or_else(overload);
    match op {
        Op::Eq => Ok(Value::Bool(left == right)),
        Op::Ne => Ok(Value::Bool(left != right)),
        Op::Lt => ordered(Ordering::is_lt),
        Op::Le => ordered(Ordering::is_le),
        Op::Gt => ordered(Ordering::is_gt),
        Op::Ge => ordered(Ordering::is_ge),
        Op::In => match (left, right) {
            (value, Value::List(list)) => Ok(Value::Bool(list.contains(value))),
            (Value::Str(key), Value::Map(map) | Value::Domains(map)) => Ok(Value::Bool(map.contains_key(&**key))),
            _ => Err(overload()),
        },
        _ => match (op, left, right) {
            (Op::Add, Value::Str(one), Value::Str(two)) => Ok(Value::from(format!("{one}{two}").as_str())),
            (Op::Add, Value::List(one), Value::List(two)) => {
                Ok(Value::List(Arc::new(one.iter().chain(two.iter()).cloned().collect())))
            }
            (_, Value::Int(one), Value::Int(two)) => match op {
                Op::Add => one.checked_add(*two),
                Op::Sub => one.checked_sub(*two),
                Op::Mul => one.checked_mul(*two),
                Op::Div | Op::Rem if *two == 0 => {
                    return Err(if op == Op::Div { "division by zero" } else { "modulus by zero" }.to_owned());
                }
                Op::Div => one.checked_div(*two),
                _ => one.checked_rem(*two),
            }
            .map(Value::Int)
            .ok_or_else(overflow),
            (_, Value::Uint(one), Value::Uint(two)) => match op {
                Op::Add => one.checked_add(*two),
                Op::Sub => one.checked_sub(*two),
                Op::Mul => one.checked_mul(*two),
                Op::Div | Op::Rem if *two == 0 => {
                    return Err(if op == Op::Div { "division by zero" } else { "modulus by zero" }.to_owned());
                }
                Op::Div => one.checked_div(*two),
                _ => one.checked_rem(*two),
            }
            .map(Value::Uint)
            .ok_or_else(overflow),
            (_, Value::Double(one), Value::Double(two)) => match op {
                Op::Add => Ok(Value::Double(one + two)),
                Op::Sub => Ok(Value::Double(one - two)),
                Op::Mul => Ok(Value::Double(one * two)),
                Op::Div => Ok(Value::Double(one / two)),
                _ => Err(overload()),
            },
            _ => Err(overload()),
        },
    }
}
