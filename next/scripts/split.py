import onnx, numpy as np
from onnx import helper, numpy_helper as nh
from onnx.utils import Extractor
m=onnx.load('teacher/kokoro-v1.0.int8.onnx'); g=m.graph
P='/decoder/decoder/'
feats,har,style,post=P+'decode.3/Div_4_output_0',P+'generator/Concat_3_output_0','/decoder/Slice_output_0',P+'generator/conv_post/Conv_output_0'
prod={o:n for n in g.node for o in n.output}; init={i.name:i for i in g.initializer}
def need(outs,stop):
    seen=set();st=list(outs)
    while st:
        t=st.pop()
        if t in stop or t not in prod or id(prod[t]) in seen: continue
        seen.add(id(prod[t])); st+=list(prod[t].input)
    return [n for n in g.node if id(n) in seen]
def model(nodes,ins,outs,inits,path):
    gg=helper.make_graph(nodes,'x',ins,outs,inits)
    mm=helper.make_model(gg,opset_imports=m.opset_import); mm.ir_version=m.ir_version; onnx.save(mm,path)
F=onnx.TensorProto.FLOAT
vi=lambda n,s: helper.make_tensor_value_info(n,F,s)
a=need([feats,har,style],set())
used={i for n in a for i in n.input}
model(a,list(g.input),[vi(feats,None),vi(har,None),vi(style,None)],[i for k,i in init.items() if k in used],'front.onnx')
b=need([post],{feats,har,style})
inits={}; nodes=[]; quant={}
val=lambda k: nh.to_array(init[k])
one=nh.from_array(np.array(1.,np.float32),'one')
for n in b:
    if n.op_type=='DynamicQuantizeLinear': quant[n.output[0]]=n.input[0]; quant[n.output[1]]='one'
for n in b:
    if n.op_type=='DynamicQuantizeLinear': continue
    n=onnx.NodeProto.FromString(n.SerializeToString())
    if n.op_type in('ConvInteger','MatMulInteger'):
        w=val(n.input[1]).astype(np.float32)-val(n.input[3]).astype(np.float32)
        name=n.input[1]+'_f'; inits[name]=nh.from_array(w,name)
        new=helper.make_node('Conv' if n.op_type=='ConvInteger' else 'MatMul',[quant[n.input[0]],name],list(n.output),n.name)
        new.attribute.extend(n.attribute); n=new
    elif n.op_type=='Cast' and n.attribute[0].i==onnx.TensorProto.INT32:
        n.attribute[0].i=F
    for k,i in enumerate(n.input):
        if i in quant: n.input[k]=quant[i]
    nodes.append(n)
used={i for n in nodes for i in n.input}
ins=[vi(feats,[1,512,'t']),vi(har,[1,22,'h']),vi(style,[1,128])]
model(nodes,ins,[vi(post,None)],list(inits.values())+[one]+[i for k,i in init.items() if k in used],'gen.onnx')
print(len(a),len(nodes))
